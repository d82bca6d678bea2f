"""What layers see: each input's matrix as defined, once for layers that share it, within the memory that is given."""

from __future__ import annotations

import logging
import weakref
from types import SimpleNamespace

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter
from comfyui_fewshot.models.adapters import merge as fusion
from comfyui_fewshot.models.adapters.apply import delta, find_module
from comfyui_fewshot.models.adapters.gram import (
    GRAM_BYTES,
    PROMPTS,
    GramSampling,
    _GramRecord,
    gram_bytes,
    group_by_input,
    input_grams,
    plan_rounds,
)
from comfyui_fewshot.models.adapters.inject import LoraSpec, applied, paths_of_set
from comfyui_fewshot.models.adapters.merge import fuse_adapters, sum_adapters
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample_latents
from comfyui_fewshot.models.stable_diffusion.files.configs import read_config
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.models.stable_diffusion.variants import CONFIGS

from .. import checkpoints
from ..conftest import random_adapter
from .test_merge import least_squares

SHORT = GramSampling(steps=2, size=8)
SETS = {"attention_ff": LoraSpec(2, 2.0), "text": LoraSpec(2, 2.0)}
CPU = torch.device("cpu")
GB = 1_000_000_000


@pytest.fixture(scope="module")
def small_sdxl(tmp_path_factory, small_tokenizer):
    """A network of SDXL's build (two encoders, size conditioning, deep linear transformers), a few layers of it."""
    path = checkpoints.save(checkpoints.sdxl(), tmp_path_factory.mktemp("sdxl") / "sdxl.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer) as model:
        yield model


def two(model):
    found = [random_adapter(model, SETS, seed) for seed in (1, 2)]
    return [(Adapter(a.factors, a.family, t), 1.0) for a, t in zip(found, ("sks cat", "zwx car"), strict=True)]


@torch.no_grad()
def by_definition(model, adapter, paths):
    """The mean of x x^T of each layer by itself, from all that it is given while the adapter is in the weights."""
    seen, hooks = {path: [] for path in paths}, []

    def keep(path):
        return lambda _, given: seen[path].append(given[0].flatten(0, -2))

    for path in paths:
        hooks.append(find_module(model.parts(), path).register_forward_pre_hook(keep(path)))
    prompts = [text.format(adapter.trigger) for text in PROMPTS]
    with applied(model, [(adapter, 1.0)]):
        sample_latents(model, prompts, [0, 1, 2, 3], SamplingOptions(width=8, height=8, steps=2, guidance=1.0))
    for hook in hooks:
        hook.remove()
    rows = {path: torch.cat(parts).double() for path, parts in seen.items()}
    return {path: x.T @ x / len(x) for path, x in rows.items()}


def test_each_layers_matrix_is_that_of_its_inputs(small_sdxl):
    """Also where layers share one, and with the pairs computed beside the weights instead of in them."""
    adapter, _ = two(small_sdxl)[0]
    paths = list(adapter.factors)
    found, wanted = (
        input_grams(small_sdxl, adapter, 1.0, paths, SHORT, NullProgress()),
        by_definition(small_sdxl, adapter, paths),
    )
    assert list(found) == paths and {gram.device.type for gram in found.values()} == {"cpu"}
    for path in paths:
        assert torch.allclose(found[path].double(), wanted[path], atol=1e-4 * wanted[path].abs().max().item()), path
    different = {gram.data_ptr(): gram.nbytes for gram in found.values()}
    assert len(different) == len(group_by_input(small_sdxl, paths)) < 0.6 * len(paths)
    assert sum(different.values()) == gram_bytes(small_sdxl, paths)
    keys = [path for path in paths if path.endswith(("attn2.to_k", "attn2.to_v"))]
    assert len(keys) > 8 and len({found[path].data_ptr() for path in keys}) == 1
    text = [path for path in paths if path.startswith("text_encoder") and "layers.0" in path]
    assert len(text) == 8 and len({found[path].data_ptr() for path in text}) == 4


def test_one_layer_alone_gives_the_same_bit_for_bit(small_sdxl):
    adapter, _ = two(small_sdxl)[0]
    paths = list(adapter.factors)
    together = input_grams(small_sdxl, adapter, 1.0, paths, SHORT, NullProgress())
    for path in (next(p for p in paths if p.endswith(end)) for end in ("attn1.to_v", "attn2.to_v", "ff.net.2")):
        alone = input_grams(small_sdxl, adapter, 1.0, [path], SHORT, NullProgress())
        assert torch.equal(alone[path], together[path]), path


def test_the_base_is_as_it_was(small_sdxl):
    adapter, _ = two(small_sdxl)[0]
    before = {name: p.data_ptr() for name, p in small_sdxl.unet.named_parameters()}
    input_grams(small_sdxl, adapter, 1.0, list(adapter.factors), SHORT, NullProgress())
    assert {name: p.data_ptr() for name, p in small_sdxl.unet.named_parameters()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small_sdxl.unet.modules())


def test_layers_that_only_seem_to_read_the_same_are_told(small_sdxl):
    record, one, other = _GramRecord(small_sdxl.input_name), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    record.add("unet.a.attn1.to_q", one)
    record.add("unet.a.attn1.to_k", one)
    with pytest.raises(FewShotError, match="unet.a.attn1.to_v does not read what unet.a.attn1.to_q reads"):
        record.add("unet.a.attn1.to_v", other)


def test_stock_sdxl_stays_within_its_memory():
    """By shapes alone: 8.7 GB an adapter, where one matrix a layer would be 11.8 GB; a round never takes more than
    its room, and layers of one input are never in two."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(read_config(CONFIGS / "sdxl", "unet"))
    model = SimpleNamespace(parts=lambda: {"unet": unet})
    model.layers = lambda group: StableDiffusion.layers(model, group)
    model.input_name = lambda path: StableDiffusion.input_name(model, path)
    paths, roots = paths_of_set(model, "attention_ff"), model.parts()
    each = sum(4 * find_module(roots, path).in_features ** 2 for path in paths)
    whole = gram_bytes(model, paths)
    assert (
        len(paths) == 700 and each == pytest.approx(11.8 * GB, rel=0.02) and whole == pytest.approx(8.7 * GB, rel=0.02)
    )
    parts = plan_rounds(model, paths, 2, GRAM_BYTES)
    assert len(parts) == 3 and sorted(path for part in parts for path in part) == sorted(paths)
    sizes = [2 * gram_bytes(model, part) for part in parts]
    assert max(sizes) <= GRAM_BYTES and sum(sizes) == 2 * whole
    largest = max(4 * find_module(roots, path).in_features ** 2 for path in paths)
    assert largest < 0.11 * GB  # what the device holds
    assert len(plan_rounds(model, paths, 1, 10 * GB)) == 1
    lonely = plan_rounds(model, paths, 2, 1)
    assert len(lonely) == len(group_by_input(model, paths))  # too little for any: one input a round


def test_rounds_give_what_one_gives_and_let_go_of_each_before_the_next(small_sdxl, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    given = two(small_sdxl)
    whole = 2 * gram_bytes(small_sdxl, list(given[0][0].factors))
    one, errors = fuse_adapters(small_sdxl, given, SHORT)
    assert f"{whole / 1e9:.2f} GB of the host's memory (estimated)" in caplog.text and "rounds" not in caplog.text
    alive, held = [], []

    def watched(*inputs):
        found = input_grams(*inputs)
        new = {gram.data_ptr(): gram for gram in found.values()}.values()
        alive.extend(weakref.ref(gram) for gram in new)
        held.append(sum(gram.nbytes for gram in (ref() for ref in alive) if gram is not None))
        return found

    monkeypatch.setattr(fusion, "input_grams", watched)
    other, again = fuse_adapters(small_sdxl, given, SHORT, room=whole // 3)
    assert "in 4 rounds of drawing" in caplog.text and len(held) == 8
    assert max(held) <= whole // 3
    assert list(one.factors) == list(other.factors) and errors == pytest.approx(again, rel=1e-9)
    assert all(torch.equal(one.factors[path].down, other.factors[path].down) for path in one.factors)
    assert all(torch.equal(one.factors[path].up, other.factors[path].up) for path in one.factors)


def test_an_sdxl_is_fused_as_layer_by_layer(small_sdxl):
    """Against the least squares of each layer by itself, which is what sharing and rounds must not change."""
    given = two(small_sdxl)
    one, errors = fuse_adapters(small_sdxl, given, SHORT)
    paths = list(one.factors)
    assert set(paths) == set(given[0][0].factors) and {path.split(".")[0] for path in paths} == {
        "unet", "text_encoder", "text_encoder_2",
    }  # fmt: skip
    grams = [by_definition(small_sdxl, adapter, paths) for adapter, _ in given]
    added, lost = sum_adapters(given), {"fused": 0.0, "added": 0.0}
    for path in paths:
        shape = find_module(small_sdxl.parts(), path).weight.shape
        alone = [(adapter.factors[path], strength) for adapter, strength in given]
        mine = delta(one.factors[path], CPU, shape)
        wanted = delta(least_squares(alone, [gram[path] for gram in grams]), CPU, shape)
        for gram, (factor, _) in zip(grams, alone, strict=True):
            own = delta(factor, CPU, shape).double()
            off = (mine - wanted).double()
            assert ((off @ gram[path]) * off).sum() < 1e-4 * ((own @ gram[path]) * own).sum(), path
            for name, result in (("fused", mine), ("added", delta(added.factors[path], CPU, shape))):
                missed = result.double() - own
                lost[name] += float(((missed @ gram[path]) * missed).sum())
    assert lost["fused"] < 0.5 * lost["added"] and all(0 < error < 1 for error in errors)
