"""What is written to a file comes back from it, names too."""

from __future__ import annotations

import tempfile
from pathlib import Path

import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfyui_fewshot.core.values import Adapter, Dense, LowRank
from comfyui_fewshot.models.adapters.formats import read_lora, write_lora
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
