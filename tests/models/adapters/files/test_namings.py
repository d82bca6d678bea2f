"""LoRA tensors in every naming, and what is read of them beside pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from comfyui_fewshot.core.values import Kept
from comfyui_fewshot.models.adapters.formats import from_tensors, read_lora, to_kohya, write_lora

from .tensors import TEXT, UNET, pair, sized

OUT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
UP = "unet.up_blocks.2.attentions.1.proj_in"
NAMINGS = {
    "kohya": (
        {
            UNET: "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
            OUT: "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
            UP: "lora_unet_up_blocks_2_attentions_1_proj_in",
            TEXT: "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
        },
        (".lora_up.weight", ".lora_down.weight"),
    ),
    "kohya, CompVis' modules": (
        {
            UNET: "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
            OUT: "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0",
            UP: "lora_unet_output_blocks_7_1_proj_in",
            TEXT: "lora_te1_text_model_encoder_layers_3_self_attn_q_proj",
        },
        (".lora_up.weight", ".lora_down.weight"),
    ),
    "ComfyUI": (
        {
            UNET: "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k",
            OUT: "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0",
            UP: "diffusion_model.output_blocks.7.1.proj_in",
            TEXT: "text_encoders.clip_l.transformer.text_model.encoder.layers.3.self_attn.q_proj",
        },
        (".lora_up.weight", ".lora_down.weight"),
    ),
    "diffusers": ({UNET: UNET, OUT: OUT, UP: UP, TEXT: TEXT}, (".lora_B.weight", ".lora_A.weight")),
    "diffusers, without text_model": (
        {UNET: UNET, OUT: OUT, UP: UP, TEXT: TEXT.replace("text_model.", "")},
        (".lora.up.weight", ".lora.down.weight"),
    ),
    "diffusers, processors": (
        {
            UNET: UNET.replace("attn2", "attn2.processor"),
            OUT: OUT.replace("attn1.to_out.0", "attn1.processor.to_out"),
            UP: UP,
            TEXT: TEXT,
        },
        ("_lora.up.weight", "_lora.down.weight"),
    ),
    "PEFT": (
        {
            UNET: "base_model.model." + UNET,
            OUT: "base_model.model." + OUT[5:],
            UP: "base_model.model." + UP,
            TEXT: TEXT,
        },
        (".lora_B.default.weight", ".lora_A.default.weight"),
    ),
    "LyCORIS": (
        {
            UNET: "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
            OUT: "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
            UP: "lycoris_up_blocks_2_attentions_1_proj_in",
            TEXT: "lora_te_text_model_encoder_layers_3_self_attn_q_proj",
        },
        (".lora_up.weight", ".lora_down.weight"),
    ),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_every_naming_is_read(naming: str):
    names, (up, down) = NAMINGS[naming]
    tensors = {}
    for i, name in enumerate(names.values()):
        tensors[name + up], tensors[name + down] = pair(i)
        if i % 2:
            tensors[name + ".alpha"] = torch.tensor(2.0)
    adapter = from_tensors(tensors)
    assert adapter.family == "sd1" and set(adapter.factors) == set(names)
    for i, path in enumerate(names):
        factor = adapter.factors[path]
        assert torch.equal(factor.up, pair(i)[0]) and torch.equal(factor.down, pair(i)[1])
        assert factor.alpha == (2.0 if i % 2 else 4.0)


DIFFUSERS = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 1}, "text_encoder.lora_alpha": 2}


@pytest.mark.parametrize(
    ("about", "alphas", "said"),
    [
        (DIFFUSERS, (8.0, 1.0, 2.0), "the alpha of 2 layers is in its header only (8 for rank 2)"),
        ({"r": 2, "lora_alpha": 4}, (4.0, 4.0, 4.0), "the alpha of 3 layers"),
        ({"unet.lora_alpha": 4, "unet.use_rslora": True}, (4 * 2**0.5, 4 * 2**0.5, 2.0), "the alpha of 2 layers"),
        ({"unet.lora_alpha": 2}, (2.0, 2.0, 2.0), None),
        ({"unet.r": 2}, (2.0, 2.0, 2.0), None),
        ("{", (2.0, 2.0, 2.0), "cannot be read"),
        ("[1]", (2.0, 2.0, 2.0), "cannot be read"),
        ({"unet.lora_alpha": "much"}, (2.0, 2.0, 2.0), "cannot be read"),
        ("[" * 100_000, (2.0, 2.0, 2.0), "cannot be read"),
        ('{"unet.lora_alpha": 1' + "0" * 400 + "}", (2.0, 2.0, 2.0), "cannot be read"),
        ('{"unet.lora_alpha": 1e999}', (2.0, 2.0, 2.0), "an alpha is inf"),
        ({"unet.lora_alpha": 4, "unet.use_rslora": "false"}, (2.0, 2.0, 2.0), "'false', neither true nor false"),
        ({"unet.alpha_pattern": {"([a-z0-9_.]+)+!": 3}}, (2.0, 2.0, 2.0), "is no layer's name"),
        ({"unet.alpha_pattern": {r"attn2\.to_k": 3, "^attn1.to_q": 5, "1.to_q": 5}}, (2.0, 3.0, 2.0), "1 layers"),
    ],
)
def test_alphas_of_diffusers_headers_count(about, alphas: tuple[float, ...], said: str | None):
    block = "mid_block.attentions.0.transformer_blocks.0."
    layers = (f"unet.{block}attn1.to_q", f"unet.{block}attn2.to_k", TEXT)
    tensors = sized(*((layer, 8, 768) for layer in layers))
    notes: list[str] = []
    header = {"lora_adapter_metadata": about if isinstance(about, str) else json.dumps(about)}
    found = from_tensors(tensors, header, notes=notes)
    assert [found.factors[layer].alpha for layer in layers] == pytest.approx(alphas)
    assert not notes if said is None else said in notes[0]
    own = from_tensors({**tensors, f"{layers[0]}.alpha": torch.tensor(5.0)}, header)
    assert own.factors[layers[0]].alpha == 5.0


def test_leftovers_and_unused_parts_are_named():
    notes: list[str] = []
    key = "text_encoders.clip_h.transformer.text_model.encoder.layers.{}.mlp.fc1"
    tensors = sized((key.format(0), 4096, 1024), (key.format(23), 4096, 1024))
    tensors |= sized(("text_encoders.clip_h.transformer.text_projection", 1024, 1024)) | {"step": torch.ones(1)}
    found = from_tensors(tensors, notes=notes)
    assert found.family == "sd2" and len(found.factors) == 1
    assert notes[0].startswith("3 tensors are no part of a LoRA, and are left out: step, text_encoder.text_model.enc")
    second = sized(("lora_te2_text_projection", 1280, 1280))
    assert list(from_tensors(second).factors) == ["text_encoder_2.text_projection"]


def test_an_alpha_of_full_rank_lokrs_is_kept(tmp_path: Path):
    """One of 10^10, as trainers write it where it counts for nothing, is no number of float16."""
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    whole = {"lokr_w1": torch.ones(8, 8), "lokr_w2": torch.ones(160, 96), "alpha": torch.tensor(1e10)}
    made = from_tensors({f"{key}.{name}": tensor for name, tensor in whole.items()})
    back = read_lora(write_lora(made, tmp_path / "a.safetensors"))
    assert next(iter(back.factors.values())).tensors["alpha"] == 1e10


def test_other_forms_are_kept_as_read():
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    parts = {f"hada_w{n}_{side}": torch.ones(2, 2) for n in (1, 2) for side in "ab"} | {"alpha": torch.tensor(1.0)}
    adapter = from_tensors({f"{key}.{name}": tensor for name, tensor in parts.items()}, family="sd1")
    (factor,) = adapter.factors.values()
    assert isinstance(factor, Kept) and set(to_kohya(adapter)) == {f"{key}.{name}" for name in parts}
    up, down = pair()
    dora = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.dora_scale": torch.ones(8, 1)}
    assert isinstance(next(iter(from_tensors(dora, family="sd1").factors.values())), Kept)
