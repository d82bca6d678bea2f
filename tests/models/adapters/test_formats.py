"""LoRA and embedding files: namings, round trips, metadata, and what is refused."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from comfyui_fewshot.core.atomic import make_folder, write_whole
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Adapter, Dense, Kept, LowRank
from comfyui_fewshot.models.adapters.formats import from_tensors, read_lora, to_kohya, write_lora
from comfyui_fewshot.models.adapters.token_files import read_embedding, write_embedding, write_parts
from comfyui_fewshot.models.stable_diffusion.lora_names import dotted, flat_name, known_name, path_of
from comfyui_fewshot.models.stable_diffusion.variants import FAMILIES

BLOCK = "transformer_blocks.{}."
LINEARS = st.builds(
    lambda i, name: BLOCK.format(i) + name,
    st.integers(0, 9),
    st.sampled_from(["attn1.to_q", "attn2.to_k", "attn2.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]),
)
PLACES = st.one_of(
    st.builds("down_blocks.{}.attentions.{}.".format, st.integers(0, 2), st.integers(0, 1)),
    st.builds("up_blocks.{}.attentions.{}.".format, st.integers(0, 3), st.integers(0, 2)),
    st.just("mid_block.attentions.0."),
)
RESNETS = st.sampled_from(
    ["mid_block.resnets.1.time_emb_proj", "down_blocks.2.resnets.0.conv_shortcut", "up_blocks.1.upsamplers.0.conv"]
)
UNET_PATHS = st.one_of(
    st.builds(lambda place, name: f"unet.{place}{name}", PLACES, st.one_of(LINEARS, st.just("proj_in"))),
    st.builds("unet.{}".format, RESNETS),
)
TEXT_NAMES = st.builds(
    "text_model.encoder.layers.{}.{}".format,
    st.integers(0, 22),  # stock SD 2.x uses no later one
    st.sampled_from(["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"]),
)


def paths(family: str) -> st.SearchStrategy[str]:
    encoders = st.sampled_from([names.component for names in FAMILIES[family].text_encoders])
    return st.one_of(UNET_PATHS, st.builds("{}.{}".format, encoders, TEXT_NAMES))


@st.composite
def factors(draw):
    """A factor whose numbers float16 holds exactly."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    out, inner, rank = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(1, 3))

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half().float()

    kind = draw(st.sampled_from(["linear", "conv", "cp", "dense", "biased"]))
    alpha = draw(st.sampled_from([0.5, 1.0, 8.0, 16.0]))
    if kind == "dense":
        return Dense(numbers(out, inner))
    if kind == "biased":
        return Dense(numbers(out, inner), numbers(out))
    if kind == "linear":
        return LowRank(numbers(out, rank), numbers(rank, inner), alpha)
    if kind == "conv":
        return LowRank(numbers(out, rank, 1, 1), numbers(rank, inner, 3, 3), alpha)
    return LowRank(numbers(out, rank, 1, 1), numbers(rank, inner, 1, 1), alpha, numbers(rank, rank, 3, 3))


@st.composite
def adapters(draw):
    family = draw(st.sampled_from(list(FAMILIES)))
    found = draw(st.dictionaries(paths(family), factors(), min_size=1, max_size=4))
    return Adapter(found, family, draw(st.sampled_from(["", "sks cat", "zwx „rote“ Katze"])))


def same(a: Adapter, b: Adapter) -> None:
    assert a.key == Adapter(b.factors, b.family, b.trigger, b.embeddings).key


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(adapter=adapters())
def test_files_give_back_what_was_written(adapter: Adapter):
    with tempfile.TemporaryDirectory() as folder:
        path = write_lora(adapter, Path(folder) / "name.safetensors")
        same(adapter, read_lora(path))
        assert [p.name for p in Path(folder).iterdir()] == ["name.safetensors"]
        for tensor in safetensors.torch.load_file(path).values():
            assert tensor.dtype == torch.float16 and tensor.is_contiguous()


@given(data=st.data())
def test_names_go_there_and_back(data):
    family = FAMILIES[data.draw(st.sampled_from(list(FAMILIES)))]
    path = data.draw(paths(family.name))
    flat = flat_name(path, family)
    assert path_of(flat) == path and known_name(flat, family)
    assert dotted(path.partition(".")[2].replace(".", "_")) == path.partition(".")[2]


def pair(seed: int = 0, width: int = 768) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator), torch.randn(4, width, generator=generator)


UNET = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
OUT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
UP = "unet.up_blocks.2.attentions.1.proj_in"
TEXT = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"
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


def test_families_are_recognised():
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    for width, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
        up, down = pair(0, width)
        assert from_tensors({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}).family == family
    up, down = pair(0, 192)
    odd = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    with pytest.raises(FewShotError, match="Choose the family in Load Adapter .sd1, sd2, sdxl"):
        from_tensors(odd)
    assert from_tensors(odd, family="sd2").family == "sd2"
    assert from_tensors(odd, {"ss_base_model_version": "sd_v1"}).family == "sd1"
    assert from_tensors(odd, {"ss_base_model_version": "sdxl_other"}).family == "sdxl"
    assert from_tensors(odd, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}).family == "sdxl"
    second = {"lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight": up}
    second["lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_down.weight"] = down
    assert from_tensors(second).family == "sdxl"
    with pytest.raises(FewShotError, match="'flux'"):
        from_tensors(odd, family="flux")


def sized(*layers: tuple[str, int, int]) -> dict[str, torch.Tensor]:
    """Pairs for layers (name, out, in)."""
    made = {}
    for name, out, into in layers:
        made |= {f"{name}.lora_up.weight": torch.ones(out, 2), f"{name}.lora_down.weight": torch.ones(2, into)}
    return made


MIDDLE, TEXT_0 = "mid_block_attentions_0_transformer_blocks_", "text_model_encoder_layers_0_mlp_fc1"
SELF_0, SELF_4 = (f"lora_unet_{MIDDLE}{n}_attn1_to_q" for n in (0, 4))
FIRST, WIDE = (f"lora_unet_down_blocks_{n}_attentions_0_transformer_blocks_0_attn1_to_q" for n in (0, 1))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([(SELF_0, 1280, 1280)], ("sd1", "sd2", "sdxl")),
        ([(SELF_4, 1280, 1280)], ("sdxl",)),
        ([(FIRST, 320, 320)], ("sd1", "sd2")),
        ([(WIDE, 640, 640)], ("sd1", "sd2", "sdxl")),
        ([("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280), (FIRST, 320, 320)], ("sd1", "sd2")),
        ([("lora_unet_add_embedding_linear_1", 1280, 2816)], ("sdxl",)),
        ([("lora_unet_down_blocks_3_resnets_0_time_emb_proj", 1280, 1280)], ("sd1", "sd2")),
        ([(f"lora_te_{TEXT_0}", 3072, 768)], ("sd1",)),
        ([(f"lora_te_{TEXT_0}", 4096, 1024)], ("sd2",)),
        ([(f"lora_te1_{TEXT_0}", 3072, 768)], ("sdxl",)),
        ([(f"lora_te_{TEXT_0}", 768, 192)], ("sd1", "sd2")),
        ([("text_encoder.text_model.encoder.layers.0.mlp.fc1", 3072, 768)], ("sd1", "sdxl")),
        ([("base_model.model.text_model.encoder.layers.0.mlp.fc1", 4096, 1024)], ("sd2",)),
        ([(f"lora_te_{TEXT_0}", 3072, 768), (SELF_0, 1280, 1280)], ("sd1",)),
    ],
)
def test_shapes_and_names_tell_the_family_or_leave_few(layers, found):
    tensors = sized(*layers)
    if len(found) == 1:
        assert from_tensors(tensors).family == found[0]
        return
    with pytest.raises(FewShotError, match=rf"Choose the family in Load Adapter \({', '.join(found)}\)"):
        from_tensors(tensors)
    for family in found:
        assert from_tensors(tensors, base_family=family).family == from_tensors(tensors, family=family).family == family


@pytest.mark.parametrize(
    ("stated", "family"),
    [
        ({"ss_base_model_version": "sd_1.5"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "SDXL_1.0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lokr"}, "sd1"),
    ],
)
def test_files_say_their_family_in_several_ways(stated: dict[str, str], family: str):
    assert from_tensors(sized((SELF_0, 1280, 1280)), stated).family == family


def test_what_is_chosen_counts_and_what_the_file_says_is_named():
    notes: list[str] = []
    made = from_tensors(sized((SELF_0, 1280, 1280)), {"ss_base_model_version": "sdxl_1.0"}, "sd1", notes=notes)
    assert made.family == "sd1" and "says that it is for Stable Diffusion XL, and sd1 is chosen" in notes[0]


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


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": 0}, "a LoRA of Flux"),
        ({"transformer.single_blocks.0.lora_A.weight": 0}, "a LoRA of Flux"),
        ({"model.diffusion_model.joint_blocks.0.x.weight": 0}, "Stable Diffusion 3"),
        ({}, "no diffusion model"),
        ({"lora_unet_conv_in.lora_up.weight": 0}, "only part of its LoRA"),
        ({"lora_unet_conv_in.diff": 0, "lora_unet_conv_of_another.lora_up.weight": 0}, "1 of 2 tensors have no place"),
    ],
)
def test_what_is_no_lora_of_these_families(tensors: dict, words: str):
    with pytest.raises(FewShotError, match=words):
        from_tensors({key: torch.zeros(2, 2) for key in tensors}, family="sd1")


# ----------------------------------------------------------------------------------------------------------- files


def adapter(**changes) -> Adapter:
    up, down = pair()
    fields = {"factors": {UNET: LowRank(up, down, 2.0)}, "family": "sd1", "trigger": "sks cat"}
    return Adapter(**(fields | changes))


def header(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata()


PLACE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"alpha": torch.ones(2)}, "does not fit together"),
        ({"alpha": torch.ones(0)}, "does not fit together"),
        ({"alpha": torch.tensor(torch.nan)}, "not finite"),
        ({"lora_up.weight": torch.ones(320, 3)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(320, 0), "lora_down.weight": torch.ones(0, 768)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(4), "lora_down.weight": torch.ones(4)}, "does not fit together"),
        ({"lora_down.weight": torch.full((4, 768), torch.nan)}, "not finite"),
        ({"lora_up.weight": torch.full((320, 4), 1e30), "lora_down.weight": torch.full((4, 768), 1e30)}, "too large"),
        ({"lora_up.weight": torch.ones(320, 4, 3, 3)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(320, 4, dtype=torch.int8)}, "stored as int8: .*float16"),
        ({"lora_down.weight": torch.ones(4, 768, dtype=torch.complex64)}, "stored as complex64"),
        ({"lora_mid.weight": torch.ones(7, 7, 1, 1)}, "does not fit together"),
        ({"lora_mid.weight": torch.ones(())}, "does not fit together"),
        ({"reshape_weight": torch.tensor([torch.nan])}, r"the shape \[nan\]"),
    ],
)
def test_a_damaged_pair_is_named(changed: dict, said: str):
    parts = {"lora_up.weight": torch.ones(320, 4), "lora_down.weight": torch.ones(4, 768), "alpha": torch.tensor(4.0)}
    assert from_tensors({f"{PLACE}.{name}": part for name, part in parts.items()}, {}).family == "sd1"
    with pytest.raises(FewShotError, match=said):
        from_tensors({f"{PLACE}.{name}": part for name, part in (parts | changed).items()}, {})


def test_alphas_alone_are_no_lora():
    with pytest.raises(FewShotError, match="holds no layer, only unet.mid_block.*alpha"):
        from_tensors({f"{PLACE}.alpha": torch.tensor(4.0)}, {}, "sd1")


@pytest.mark.parametrize(
    "parts",
    [
        {"lokr_w1": torch.ones(2), "lokr_w2": torch.ones(3)},
        {"lokr_w1": torch.ones(8, 8), "lokr_w2_a": torch.ones(40, 0), "lokr_w2_b": torch.ones(0, 96)},
        {f"hada_w{n}_{side}": torch.ones(s) for n in "12" for side, s in (("a", (320, 0)), ("b", (0, 768)))},
        {f"{name}.weight": torch.ones(3) for name in ("a1", "a2", "b1", "b2")},
    ],
)
def test_matrices_of_other_forms_have_rows_and_columns(parts: dict[str, torch.Tensor]):
    with pytest.raises(FewShotError, match=r"has the shape .*: the file is damaged"):
        from_tensors({f"{PLACE}.{name}": part for name, part in parts.items()} | {f"{PLACE}.alpha": torch.ones(())})


def test_a_file_of_two_adapters_is_refused():
    def layers(*names: str) -> dict[str, torch.Tensor]:
        return {f"{UNET}.{name}.weight": torch.ones((4, 768) if "_A" in name else (320, 4)) for name in names}

    assert list(from_tensors(layers("lora_A.default", "lora_B.default")).factors) == [UNET]
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(default and other"):
        from_tensors(layers("lora_A.default", "lora_B.other"))
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(default and one without a name"):
        from_tensors(layers("lora_A.default", "lora_B"))
    other = {key.replace("to_k", "to_v"): tensor for key, tensor in layers("lora_A.b", "lora_B.b").items()}
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(a and b\)"):
        from_tensors(layers("lora_A.a", "lora_B.a") | other)


NO_VECTORS = [torch.ones(()), torch.ones(0, 768), torch.full((1, 768), torch.nan)]


@pytest.mark.parametrize("vectors", [*NO_VECTORS, torch.ones(1, 1, 768)])
def test_a_word_of_no_numbers_is_refused(vectors: torch.Tensor):
    up, down = pair()
    lora = {f"{PLACE}.lora_up.weight": up, f"{PLACE}.lora_down.weight": down}
    word = from_tensors(lora | {"bundle_emb.w.clip_l": torch.ones(768)}).embeddings["w"]["clip_l"]
    assert word.shape == (1, 768)
    with pytest.raises(FewShotError, match="no vectors, or numbers that are not finite"):
        from_tensors(lora | {"bundle_emb.w.clip_l": vectors})


@pytest.mark.parametrize("vectors", NO_VECTORS)
def test_an_embedding_of_no_numbers_is_refused(tmp_path: Path, vectors: torch.Tensor):
    safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "a.safetensors")
    with pytest.raises(FewShotError, match="no vectors, or numbers that are not finite"):
        read_embedding(tmp_path / "a.safetensors")


def test_files_can_be_read_by_others(tmp_path: Path):
    usual = tmp_path / "usual"
    usual.touch()
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    assert path.stat().st_mode == usual.stat().st_mode


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path):
    (tmp_path / "loras").touch()
    with pytest.raises(FewShotError, match="cannot be written"):
        write_lora(adapter(), tmp_path / "loras" / "a.safetensors")


def test_metadata(tmp_path: Path):
    mine = adapter(metadata={"ss_steps": "500", "ss_learning_rate": "0.0001", "modelspec.resolution": "64x64"})
    path = write_lora(mine, tmp_path / "my cat.safetensors")
    metadata = header(path)
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2")
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["ss_v2"] == "False"
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "my cat"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.trigger_phrase"] == "sks cat" and metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.resolution"] == "64x64" and metadata["ss_steps"] == "500"
    assert json.loads(metadata["ss_tag_frequency"]) == {"my cat": {"sks cat": 1}}
    assert len(metadata["sshs_model_hash"]) == 64 and len(metadata["sshs_legacy_hash"]) == 8
    again = write_lora(read_lora(path), tmp_path / "other.safetensors")
    assert header(again)["modelspec.title"] == "other"
    assert header(again)["sshs_model_hash"] == metadata["sshs_model_hash"]


def test_the_hash_is_that_of_the_tensors_on_disk(tmp_path: Path):
    import hashlib

    path = write_lora(adapter(), tmp_path / "a.safetensors")
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert hashlib.sha256(body).hexdigest() == header(path)["sshs_model_hash"]
    assert header(path)["modelspec.hash_sha256"] == "0x" + header(path)["sshs_model_hash"]


def test_a_name_is_never_written_over(tmp_path: Path):
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(FewShotError, match="exists already"):
        write_lora(adapter(trigger="other"), path)
    assert path.read_bytes() == before


def test_a_name_taken_in_the_last_moment(tmp_path: Path, monkeypatch):
    from comfyui_fewshot.models.adapters import formats

    path = tmp_path / "a.safetensors"
    check = formats._check_names
    monkeypatch.setattr(formats, "_check_names", lambda *args: (check(*args), path.write_bytes(b"theirs")))
    with pytest.raises(FewShotError, match="exists already"):
        write_lora(adapter(), path)
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]


def test_without_hard_links(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    assert path.is_file() and list(tmp_path.iterdir()) == [path]


def test_no_half_written_file_stays(tmp_path: Path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FewShotError, match="No space left.*free space"):
        write_lora(adapter(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_cannot_be_written(tmp_path: Path):
    up, down = pair()
    for factors, words in (
        ({}, "changes no weights"),
        ({UNET: LowRank(up * float("nan"), down, 4.0)}, "not finite"),
        ({UNET: LowRank(up * 1e6, down, 4.0)}, "not finite"),
        ({"unet.strange.module": LowRank(up, down, 4.0)}, "3 of 3 names would not load"),
        ({TEXT.replace("text_encoder.", "text_encoder_2."): LowRank(up, down, 4.0)}, "would not load"),
    ):
        with pytest.raises(FewShotError, match=words):
            write_lora(adapter(factors=factors), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_other_files(tmp_path: Path):
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FewShotError, match="cut.safetensors is cut short"):
        read_lora(tmp_path / "cut.safetensors")
    safetensors.torch.save_file({"clip_l": torch.ones(1, 4)}, tmp_path / "e.safetensors")
    with pytest.raises(FewShotError, match="e.safetensors: this is a textual-inversion embedding"):
        read_lora(tmp_path / "e.safetensors")


def test_embeddings(tmp_path: Path):
    one = adapter(embeddings={"sks": {"clip_l": torch.randn(2, 768)}}, trigger="sks cat")
    path = write_embedding(one, tmp_path / "one.safetensors")
    assert torch.equal(safetensors.torch.load_file(path)["emb_params"], one.embeddings["sks"]["clip_l"])
    assert header(path)["modelspec.architecture"] == "stable-diffusion-v1/textual-inversion"
    vectors = {"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}
    both = adapter(family="sdxl", embeddings={"sks": vectors}, trigger="sks cat")
    path = write_embedding(both, tmp_path / "both.safetensors")
    assert set(safetensors.torch.load_file(path)) == {"clip_l", "clip_g"}
    for mine, name in ((one, "one"), (both, "both")):
        back = read_embedding(tmp_path / f"{name}.safetensors")
        assert (back.family, back.trigger, list(back.embeddings)) == (mine.family, "sks cat", ["sks"])
        assert all(torch.equal(back.embeddings["sks"][kind], v) for kind, v in mine.embeddings["sks"].items())
    with pytest.raises(FewShotError, match="no learned embeddings"):
        write_embedding(adapter(), tmp_path / "none.safetensors")
    with pytest.raises(FewShotError, match="exists already"):
        write_embedding(one, tmp_path / "one.safetensors")
    with pytest.raises(FewShotError, match="lora.safetensors is a LoRA, not an embedding"):
        read_embedding(write_lora(adapter(), tmp_path / "lora.safetensors"))


@pytest.mark.parametrize(("width", "family"), [(768, "sd1"), (1024, "sd2")])
def test_other_tools_embeddings(tmp_path: Path, width: int, family: str):
    """As A1111 writes them: no metadata, and a name of its own; a single vector may have one dimension."""
    safetensors.torch.save_file({"emb_params": torch.ones(width)}, tmp_path / "style.safetensors")
    back = read_embedding(tmp_path / "style.safetensors")
    (kind,) = back.embeddings["style"]
    assert back.family == family and back.embeddings["style"][kind].shape == (1, width)


@pytest.mark.parametrize(
    ("family", "keys", "names"),
    [
        ("sd1", {"clip_l": 768}, {"string_to_param.*"}),
        ("sd2", {"clip_h": 1024}, {"string_to_param.*"}),
        ("sdxl", {"clip_l": 768, "clip_g": 1280}, {"clip_l", "clip_g"}),
    ],
)
def test_embeddings_bundled_in_a_lora(tmp_path: Path, family: str, keys: dict[str, int], names: set[str]):
    """Under the words themselves, whatever the file is called, so that the trigger works in A1111."""
    words = {w: {key: torch.randn(2, width).half().float() for key, width in keys.items()} for w in ("sks", "<zwx>")}
    mine = adapter(family=family, embeddings=words)
    path = write_lora(mine, tmp_path / "file.safetensors")
    bundled = {key for key in safetensors.torch.load_file(path) if key.startswith("bundle_emb.")}
    assert bundled == {f"bundle_emb.{word}.{name}" for word in words for name in names}
    back = read_lora(path)
    assert back.family == family and set(back.embeddings) == set(words)
    assert all(torch.equal(back.embeddings[word][key], words[word][key]) for word in words for key in keys)
    assert not any(key.startswith("bundle") for key in to_kohya(mine))


def test_all_parts_of_an_adapter(tmp_path: Path):
    vectors = {"clip_l": torch.randn(1, 768)}
    both = adapter(embeddings={"sks": vectors, "<zwx>": vectors}, trigger="sks cat")
    names = [path.name for path in write_parts(both, tmp_path / "two.safetensors")]
    assert names == ["two.safetensors", "two_sks.safetensors", "two_zwx.safetensors"]
    (alone,) = write_parts(replace(both, factors={}, embeddings={"sks": vectors}), tmp_path / "word.safetensors")
    assert alone.name == "word.safetensors" and list(read_embedding(alone).embeddings) == ["sks"]


CJK = "猫" * 100


def test_words_of_any_length_become_names(tmp_path: Path):
    """File systems count bytes, 255 of them: a character of Chinese takes three."""
    words = {f"{CJK}{end}": {"clip_l": torch.randn(1, 768)} for end in ("甲", "乙")}
    names = [path.name for path in write_parts(adapter(embeddings=words), tmp_path / f"{'あ' * 60}.safetensors")]
    assert len(set(names)) == 3 and all(len(name.encode()) <= 255 for name in names)
    assert names[1].startswith("あ" * 60 + "_" + "猫" * 13 + "-")
    assert set(read_lora(tmp_path / names[0]).embeddings) == set(words)
    assert [list(read_embedding(tmp_path / name).embeddings) for name in names[1:]] == [[word] for word in words]


def test_a_name_that_is_too_long_is_called_so(tmp_path: Path):
    for write in (
        lambda path: write_lora(adapter(), path),
        lambda path: write_whole(path, b""),
        lambda path: make_folder(path),
    ):
        with pytest.raises(FewShotError, match="Choose a shorter name: a file's name may take 255 bytes"):
            write(tmp_path / f"{CJK}.safetensors")
    assert list(tmp_path.iterdir()) == []
