"""A trained base as a file: original names and back, for every family, from a file and from a folder; extraction."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.models import checkpoint_names as names
from comfyui_fewshot.models.checkpoint_original import original_text, original_unet_names, original_vae
from comfyui_fewshot.models.checkpoint_writing import trained_base, write_checkpoint
from comfyui_fewshot.models.errors import FewShotError
from comfyui_fewshot.models.extraction import low_rank
from comfyui_fewshot.models.families import FAMILIES
from comfyui_fewshot.models.loading import base_from_path, open_base
from comfyui_fewshot.models.merging import delta
from comfyui_fewshot.models.values import Dense, LowRank

from . import checkpoints
from .checkpoints import TextShape, UNetShape, VaeShape

THIN = VaeShape(channels=32, multipliers=(1, 1), layers=1)
TEXT = TextShape(width=32, layers=2, inner=64)


def made(family: str) -> dict[str, torch.Tensor]:
    if family == "sd1":
        return checkpoints.sd1(UNetShape(multipliers=(1, 2), depths=(1, 0), context=32), TEXT, THIN)
    shape = UNetShape(multipliers=(1, 2), depths=(0, 1), context=32, linear=True)
    return checkpoints.sd2(shape, TextShape(width=32, layers=3, inner=64), THIN)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_original_names_go_back_and_forth(family, small_tokenizer, tmp_path):
    """The readers' maps, which tests of their own hold to ComfyUI's, undo the writers'."""
    tensors = made(family)
    path = checkpoints.save(tensors, tmp_path / "checkpoint.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer) as networks:
        layers = networks.unet.config.layers_per_block
        unet = {name: p.detach() for name, p in networks.unet.named_parameters()}
        renamed = original_unet_names(unet, layers)
        assert set(renamed.values()) == {key for key in tensors if key.startswith(names.UNET)}
        assert all(names.unet_name(new[len(names.UNET) :], layers) == name for name, new in renamed.items())
        vae = {name: p.detach() for name, p in networks.vae.named_parameters()}
        back = original_vae(vae, len(networks.vae.config.block_out_channels))
        for key, tensor in back.items():
            assert torch.equal(tensor, tensors[key]), key
        which = FAMILIES[family].text_encoders[0]
        state = {names.with_text_model(n): p.detach() for n, p in networks.text_encoders[0].named_parameters()}
        text = original_text(state, which, FAMILIES[family].unused_layers)
        if which.open_clip:  # older diffusers takes the width from the projection, which every such file has
            text[f"{which.original}text_projection"] = torch.eye(32)
        read = names.text_tensors(text, which, FAMILIES[family].unused_layers)
        assert all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_file_s_trained_base(family, small_tokenizer, tmp_path):
    tensors = made(family) | {"model_ema.decay": torch.ones(())}
    path = checkpoints.save(tensors, tmp_path / "checkpoint.safetensors")
    base = base_from_path(path)
    with open_base(base, "cpu", tokenizer_folder=small_tokenizer) as networks:
        before = {name: p.detach().clone() for name, p in networks.unet.named_parameters()}
    changes = {name: torch.full_like(p, 0.25) for name, p in before.items() if "attn2.to_k" in name}
    written = write_checkpoint(base, changes, tmp_path / "trained.safetensors")
    found = safetensors.torch.load_file(written)
    assert set(found) == set(tensors) - {"model_ema.decay"}
    assert all(tensor.dtype == torch.float16 for tensor in found.values() if tensor.is_floating_point())
    again = trained_base(base, written)
    assert (again.family, again.prediction) == (base.family, base.prediction) and again.key != base.key
    with open_base(again, "cpu", tokenizer_folder=small_tokenizer) as networks:
        for name, parameter in networks.unet.named_parameters():
            assert torch.allclose(parameter, before[name] + (0.25 if name in changes else 0), atol=2e-3), name
    with pytest.raises(FewShotError, match="exists already"):
        write_checkpoint(base, changes, written)
    with pytest.raises(FewShotError, match="1 trained weights have no place"):
        write_checkpoint(base, {"nowhere.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FewShotError, match="not finite in float16"):
        huge = {name: torch.full_like(before[name], 1e6) for name in changes}
        write_checkpoint(base, huge, tmp_path / "huge.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint.safetensors", "trained.safetensors"]


def test_a_folder_s_trained_base_needs_no_stock_sizes(pocket_folder, opened_pocket, tmp_path):
    """Its file holds all networks; sizes and tokenizer still come from the folder."""
    base = base_from_path(pocket_folder)
    changes = {"conv_out.bias": torch.full((opened_pocket.latent_channels,), 0.5)}
    again = trained_base(base, write_checkpoint(base, changes, tmp_path / "pocket.safetensors"))
    with open_base(again, "cpu") as networks:
        for mine, theirs in ((networks.unet, opened_pocket.unet), (networks.vae, opened_pocket.vae),
                             (networks.text_encoders[0], opened_pocket.text_encoders[0])):  # fmt: skip
            for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
                assert torch.allclose(one, other + (0.5 if name == "conv_out.bias" else 0.0), atol=2e-3), name
        assert networks.tokenizers[0]("cat").input_ids == opened_pocket.tokenizers[0]("cat").input_ids


# ----------------------------------------------------------------------------------------------------- extraction


def test_a_low_rank_difference_is_found_whole():
    random = torch.Generator().manual_seed(0)
    thin = torch.randn(12, 3, generator=random) @ torch.randn(3, 20, generator=random)
    conv = (torch.randn(8, 2, generator=random) @ torch.randn(2, 36, generator=random)).reshape(8, 4, 3, 3)
    pairs, error = low_rank({"unet.a": Dense(thin), "unet.b": Dense(conv), "unet.n": Dense(torch.ones(5))}, 3)
    assert error < 1e-5 and isinstance(pairs["unet.n"], Dense)
    for name, whole in (("unet.a", thin), ("unet.b", conv)):
        assert isinstance(pairs[name], LowRank)
        assert torch.allclose(delta(pairs[name], torch.device("cpu"), whole.shape), whole, atol=1e-4)


def test_the_error_is_what_is_missing():
    """Of a diagonal matrix the smaller entries; of a bias everything."""
    change = Dense(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])), torch.tensor([1.0, 1.0]))
    _, error = low_rank({"unet.a": change}, 2)
    assert error == pytest.approx(((4 + 1 + 2) / (16 + 9 + 4 + 1 + 2)) ** 0.5)
    assert low_rank({"unet.a": Dense(torch.zeros(3, 3))}, 2)[1] == 0.0
