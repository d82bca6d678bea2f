"""Parts of two models, and adapters for another model than the one they are put on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.core.values import Adapter, Dense, Loaded, LowRank
from comfyui_fewshot.models.adapters.formats import to_kohya
from comfyui_fewshot.models.open import base_from_loaded, open_base
from comfyui_fewshot.models.stable_diffusion.lora_names import flat_name
from comfyui_fewshot.models.stable_diffusion.variants import FAMILIES
from comfyui_fewshot.pocket.world import words
from comfyui_fewshot.tests.models import checkpoints
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.parts.test_changes import again, refusal

pytestmark = pytest.mark.server
MODEL, CLIP, VAE = ["base", 1], ["base", 2], ["base", 3]
BLOCK = "unet.mid_block.attentions.0.transformer_blocks.0"
LAYER = "text_encoder.text_model.encoder.layers.0"


@pytest.fixture(scope="module")
def two(server):
    """The pocket, a folder of other sizes ("small"), and a checkpoint of SD 1.5's widths that holds a UNet alone."""
    folder = server.base / "models" / "diffusers" / "small"
    vae = checkpoints.VaeShape(channels=32, multipliers=(1, 1, 1, 1), layers=1)
    tensors = checkpoints.sd1(vae=vae)
    words.save(words.build(folder / "tokenizer"), folder / "tokenizer")
    with open_base(
        base_from_loaded(Loaded(lambda: tensors), "small"), "cpu", tokenizer_folder=folder / "tokenizer"
    ) as model:
        checkpoints.save_folder(model, folder)
    (folder / "model_index.json").write_text("{}")
    to = checkpoints.Builder(seed=1, dtype=torch.float16)
    checkpoints.add_unet(to, checkpoints.UNetShape())
    checkpoints.save(to.tensors, server.base / "models" / "checkpoints" / "unet_only.safetensors")
    graph = graphs.base()
    graph["small"] = graphs.node(
        "FewShotLoadBase", **{"source": "diffusers folder", "source.name": "small"}, clip_skip=0, dtype="auto"
    )
    graph["alone"] = graphs.node("CheckpointLoaderSimple", ckpt_name="unet_only.safetensors")
    return graph


MISFITS = [
    ({"clip": ["small", 2]}, "prompts are 64 numbers wide, and the MODEL reads 192"),
    ({"vae": ["small", 3]}, "latents have 4 channels, and the MODEL reads 8"),
    ({"model": ["small", 1]}, "prompts are 192 numbers wide, and the MODEL reads 64"),
    ({"model": ["alone", 0]}, "prompts are 192 numbers wide, and the MODEL reads 768"),
    ({"clip": ["alone", 1]}, "this CLIP is empty"),
    ({"vae": ["alone", 2]}, "this VAE is empty"),
]


@pytest.mark.parametrize(("parts", "said"), MISFITS, ids=[case[1] for case in MISFITS])
def test_parts_that_do_not_fit_are_refused(server, two, parts, said):
    assert said in refusal(server, two | again(**parts))


def test_a_merge_of_two_sizes_is_refused(server, two):
    merged = {"merged": graphs.node("ModelMergeSimple", model1=MODEL, model2=["small", 1], ratio=0.5)}
    assert "a model that was merged into this MODEL is for another base" in refusal(
        server, two | merged | again(model=["merged", 0])
    )


# ----------------------------------------------------------------------------------------------------- Apply Adapter


def pair(out: int, width: int) -> LowRank:
    return LowRank(torch.ones(out, 1), torch.ones(1, width), 1.0)


def kept(server, name: str, factors: dict, **other) -> graphs.Graph:
    """An adapter with these factors by Load Adapter, from a file."""
    tensors = to_kohya(Adapter(factors, "sd1", "sks cat")) | other
    save_file(tensors, server.base / "models" / "loras" / f"{name}.safetensors", {"ss_base_model_version": "sd_v1"})
    return {"adapter": graphs.node("FewShotLoadAdapter", **{"source": "file", "source.name": f"{name}.safetensors"})}


def apply(model=MODEL, clip=CLIP) -> graphs.Graph:
    return {
        "apply": graphs.node(
            "FewShotApplyAdapter", adapter=["adapter", 0], model=model, clip=clip, strength_model=1.0, strength_clip=1.0
        )
    }


FITTING = {f"{BLOCK}.attn2.to_k": pair(192, 192), f"{LAYER}.mlp.fc1": pair(768, 192)}
WRONG = {
    "sizes": (
        {f"{BLOCK}.attn2.to_k": pair(320, 768)},
        "1 of the 1 layers",
        "192 x 192, and the adapter needs 320 x 768",
    ),
    "one of three": (FITTING | {f"{BLOCK}.attn1.to_q": pair(64, 64)}, "1 of the 3 layers", "attn1.to_q this MODEL"),
    "no such block": ({"unet.down_blocks.3.resnets.0.conv1": pair(8, 72)}, "1 of the 1", "this MODEL has nothing"),
    "no such layer": ({"text_encoder.text_model.encoder.layers.11.mlp.fc1": pair(768, 192)}, "1 of the 1", "this CLIP"),
    "text alone": ({f"{LAYER}.mlp.fc1": pair(3072, 768)}, "1 of the 1 layers", "this CLIP has the shape 768 x 192"),
    "full": ({f"{BLOCK}.attn2.to_k": Dense(torch.ones(320, 768))}, "1 of the 1 layers", "320 x 768"),
    "bias": (
        {f"{BLOCK}.attn2.to_out.0": Dense(torch.ones(192, 192), torch.ones(7))},
        "1 of the 1",
        "no bias that fits",
    ),
    "no bias": (
        {f"{BLOCK}.attn2.to_k": Dense(torch.ones(192, 192), torch.ones(192))},
        "1 of the 1",
        "no bias that fits",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_adapter_of_other_sizes_is_refused(server, case):
    factors, count, shape = WRONG[case]
    graph = graphs.base() | kept(server, case.replace(" ", "_"), factors) | apply()
    message = refusal(server, graph | graphs.drawing(["apply", 0], ["apply", 1]), "apply")
    assert "for another base model" in message and count in message and shape in message


def test_the_pocket_s_adapter_on_another_model_is_refused(server, two):
    adapter = kept(server, "pocket_s", {f"{BLOCK}.attn2.to_k": pair(192, 192)})
    for model, clip in ((["small", 1], ["small", 2]), (["alone", 0], CLIP)):
        seen = {"seen": graphs.node("PreviewAny", source=["apply", 0])}
        assert "for another base model" in refusal(server, two | adapter | apply(model, clip) | seen, "apply")


FORMS = {
    "LoHa": {"hada_w1_a": (192, 2), "hada_w1_b": (2, 192), "hada_w2_a": (192, 2), "hada_w2_b": (2, 192)},
    "LoKr": {"lokr_w1": (4, 4), "lokr_w2": (48, 48)},
    "DoRA": {"lora_up.weight": (192, 2), "lora_down.weight": (2, 192), "dora_scale": (192, 1)},
    "GLoRA": {"a1.weight": (192, 2), "a2.weight": (2, 192), "b1.weight": (192, 2), "b2.weight": (2, 192)},
    "OFT": {"oft_blocks": (4, 48, 48)},
    "norm": {"w_norm": (192,), "b_norm": (192,)},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_comfyui_applies_is_put_on_or_refused(server, two, form):
    layer = f"{BLOCK}.norm1" if form == "norm" else f"{BLOCK}.attn1.to_k"
    name = flat_name(layer, FAMILIES["sd1"])
    tensors = {f"{name}.{part}": torch.ones(shape) * 0.1 for part, shape in FORMS[form].items()}
    seen = {"seen": graphs.node("PreviewAny", source=["apply", 0])}
    adapter = kept(server, form, {}, **tensors)
    server.succeed(graphs.base() | adapter | apply() | seen)
    message = refusal(server, two | adapter | apply(["small", 1], ["small", 2]) | seen, "apply")
    assert "for another base model" in message and "1 of the 1 layers" in message


def test_what_fits_draws_as_comfyui_s_loader(server):
    adapter = kept(server, "fits", FITTING)
    lora = {"lora": graphs.node("LoraLoader", model=MODEL, clip=CLIP, lora_name="fits.safetensors", strength_model=1.0,
                                strength_clip=1.0)}  # fmt: skip
    server.succeed(graphs.base() | lora | graphs.drawing(["lora", 0], ["lora", 1]))
    expected = server.kept("native")
    server.succeed(graphs.base() | adapter | apply() | graphs.drawing(["apply", 0], ["apply", 1]))
    assert abs(server.kept("native") - expected).max() == 0


def test_norms_of_the_text_encoder_are_put_on(server):
    """Which ComfyUI's own loader leaves out, with a line in its log."""
    norm = {f"{LAYER}.layer_norm1": Dense(torch.full((192,), 3.0), torch.zeros(192))}
    graph = graphs.base() | kept(server, "norms", norm) | apply()
    server.succeed(graph | graphs.drawing(["apply", 0], ["apply", 1]))
    changed = server.kept("native")
    server.succeed(graphs.base() | graphs.drawing(MODEL, CLIP))
    assert abs(server.kept("native") - changed).max() > 1e-3


def test_an_empty_clip_is_named(server, two):
    seen = {"seen": graphs.node("PreviewAny", source=["apply", 0])}
    text = kept(server, "text_part", {f"{LAYER}.mlp.fc1": pair(768, 192)})
    message = refusal(server, two | text | apply(clip=["alone", 1]) | seen, "apply")
    assert "changes 1 layers of the CLIP" in message and "is empty" in message
    server.succeed(
        two | kept(server, "no_text", {f"{BLOCK}.attn2.to_k": pair(192, 192)}) | apply(clip=["alone", 1]) | seen
    )
