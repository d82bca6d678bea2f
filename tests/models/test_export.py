"""A trained base as a file: original names and back, for every family, from a file and from a folder; extraction."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Dense, LowRank
from comfyui_fewshot.core.weight_files import open_tensors
from comfyui_fewshot.models.adapters.apply import delta
from comfyui_fewshot.models.export import trained_base, write_checkpoint
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.files import names
from comfyui_fewshot.models.stable_diffusion.files.checkpoint import assumed_by_comfyui
from comfyui_fewshot.models.stable_diffusion.files.names_back import original_text, original_unet_names, original_vae
from comfyui_fewshot.models.stable_diffusion.variants import FAMILIES
from comfyui_fewshot.models.svd_extract import svd_low_rank

from . import checkpoints
from .checkpoints import TextShape, UNetShape, VaeShape

PROBE = Path(__file__).with_name("probes") / "comfy_probe.py"
THIN = VaeShape(channels=32, multipliers=(1, 1), layers=1)
TEXT = TextShape(width=32, layers=2, inner=64)


PREDICTIONS = [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
NORM = f"{names.UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
STOCK = {
    "sd1": UNetShape(depths=(1, 0), context=768),
    "sd2": UNetShape(multipliers=(1, 1, 1, 1), layers=2, depths=(1, 0, 0, 0), middle=1, context=1024, linear=True),
    "sdxl": UNetShape(
        multipliers=(1, 1, 1), layers=2, depths=(0, 2, 10), middle=10, context=2048, linear=True, added=2816
    ),
}
"""as wide and as deep as ComfyUI wants them, to know a family by"""


def made(family: str) -> dict[str, torch.Tensor]:
    if family == "sdxl":
        return checkpoints.sdxl()
    if family == "sd1":
        return checkpoints.sd1(UNetShape(multipliers=(1, 2), depths=(1, 0), context=32), TEXT, THIN)
    shape = UNetShape(multipliers=(1, 2), depths=(0, 1), context=32, linear=True)
    return checkpoints.sd2(shape, TextShape(width=32, layers=3, inner=64), THIN)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_original_names_go_back_and_forth(family, small_tokenizer, tmp_path):
    """The readers' maps, which tests of their own hold to ComfyUI's, undo the writers'."""
    tensors = made(family)
    path = checkpoints.save(tensors, tmp_path / "checkpoint.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer) as model:
        layers = model.unet.config.layers_per_block
        unet = {name: p.detach() for name, p in model.unet.named_parameters()}
        renamed = original_unet_names(unet, layers)
        assert set(renamed.values()) == {key for key in tensors if key.startswith(names.UNET)}
        assert all(names.unet_name(new[len(names.UNET) :], layers) == name for name, new in renamed.items())
        vae = {name: p.detach() for name, p in model.vae.named_parameters()}
        back = original_vae(vae, len(model.vae.config.block_out_channels))
        for key, tensor in back.items():
            assert torch.equal(tensor, tensors[key]), key
        which = FAMILIES[family].text_encoders[0]
        state = {names.with_text_model(n): p.detach() for n, p in model.text_encoders[0].named_parameters()}
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
    with open_base(base, "cpu", tokenizer_folder=small_tokenizer) as model:
        before = {name: p.detach().clone() for name, p in model.unet.named_parameters()}
    changes = {name: torch.full_like(p, 0.25) for name, p in before.items() if "attn2.to_k" in name}
    written = write_checkpoint(base, changes, tmp_path / "trained.safetensors")
    found = safetensors.torch.load_file(written)
    assert set(found) == set(tensors) - {"model_ema.decay"}
    assert all(tensor.dtype == torch.float16 for tensor in found.values() if tensor.is_floating_point())
    again = trained_base(base, written)
    assert (again.family, again.prediction) == (base.family, base.prediction) and again.key != base.key
    with open_base(again, "cpu", tokenizer_folder=small_tokenizer) as model:
        for name, parameter in model.unet.named_parameters():
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
    with open_base(again, "cpu") as model:
        for mine, theirs in ((model.unet, opened_pocket.unet), (model.vae, opened_pocket.vae),
                             (model.text_encoders[0], opened_pocket.text_encoders[0])):  # fmt: skip
            for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
                assert torch.allclose(one, other + (0.5 if name == "conv_out.bias" else 0.0), atol=2e-3), name
        assert model.tokenizers[0]("cat").input_ids == opened_pocket.tokenizers[0]("cat").input_ids


# ----------------------------------------------------------------------------------------------------- prediction


@pytest.mark.parametrize(("family", "predicts"), list(itertools.product(FAMILIES, PREDICTIONS)))
def test_a_folder_s_prediction_goes_into_its_file(family, predicts, small_tokenizer, tmp_path, caplog):
    """A folder says in its configs what its model predicts; its file says and computes the same by itself."""
    prediction, zero_snr = predicts
    path = checkpoints.save(made(family), tmp_path / "checkpoint.safetensors")
    with open_base(base_from_path(path), "cpu", tokenizer_folder=small_tokenizer) as model:
        config = {"prediction_type": prediction, "rescale_betas_zero_snr": zero_snr}
        base = base_from_path(checkpoints.save_folder(model, tmp_path / "folder", **config))
    assert (base.family, base.prediction, base.zero_snr) == (family, *predicts)
    with open_base(base, "cpu") as model:
        before = [dict(network.named_parameters()) for network in (model.unet, model.vae, *model.text_encoders)]
        schedule = model.process
    changes = {"conv_out.bias": torch.full_like(before[0]["conv_out.bias"], 0.5)}
    written = write_checkpoint(base, changes, tmp_path / "trained.safetensors", {"ss_steps": "1"})
    with open_tensors(written) as (tensors, metadata):
        assert metadata["modelspec.prediction_type"] == {"epsilon": "epsilon", "v_prediction": "v"}[prediction]
        assert metadata["ss_steps"] == "1"
        assert ("v_pred" in tensors, "ztsnr" in tensors) == (prediction == "v_prediction", zero_snr)
    told = family != "sdxl" and prediction == "v_prediction"  # ComfyUI looks for no marks there
    assert told == (f"sampling v_prediction, zsnr {str(zero_snr).lower()}" in caplog.text)
    again = base_from_path(written)
    assert (again.family, again.prediction, again.zero_snr) == (family, *predicts)
    with open_base(again, "cpu", tokenizer_folder=small_tokenizer) as model:
        assert model.process.prediction == prediction
        assert torch.equal(model.process.alphas_cumprod, schedule.alphas_cumprod)
        after = [dict(network.named_parameters()) for network in (model.unet, model.vae, *model.text_encoders)]
    for one, other in zip(before, after, strict=True):
        assert set(one) == set(other)
        for name in one:
            wanted = one[name] + changes[name] if name in changes and one is before[0] else one[name]
            assert torch.allclose(other[name], wanted, atol=2e-3), name


def test_marks_of_another_prediction_are_left_out(tmp_path):
    """A file's metadata wins over its marks, so the marks are not those of what it predicts."""
    marks = {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}
    stated = {"modelspec.prediction_type": "epsilon"}
    path = checkpoints.save(made("sdxl") | marks, tmp_path / "checkpoint.safetensors", stated)
    base = base_from_path(path)
    written = write_checkpoint(base, {}, tmp_path / "trained.safetensors")
    assert base.prediction == "epsilon" and not set(marks) & set(safetensors.torch.load_file(written))
    assert base_from_path(written).prediction == "epsilon"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "predicts", "bias"),
    [
        ("sd1", ("v_prediction", False), None),
        ("sd2", ("v_prediction", False), 0.05),
        ("sd2", ("v_prediction", False), 0.15),
        ("sd2", ("epsilon", False), 0.15),
        ("sdxl", ("v_prediction", False), None),
        ("sdxl", ("v_prediction", True), None),
    ],
)
def test_comfyui_sees_what_was_written_or_a_warning_says_so(family, predicts, bias, comfyui_path, tmp_path, caplog):
    """By ComfyUI's own loader: SDXL by its marks; SD 2.x by a bias's spread, and then the warning is right."""
    tensors = getattr(checkpoints, family)(STOCK[family], dtype=torch.float16)
    if bias is not None:
        tensors[NORM] = (torch.randn(len(tensors[NORM]), generator=torch.Generator().manual_seed(0)) * bias).half()
    stated = {"modelspec.prediction_type": "v" if predicts[0] == "v_prediction" else "epsilon"}
    marks = {"ztsnr": torch.empty(0)} if predicts[1] else {}
    base = base_from_path(checkpoints.save(tensors | marks, tmp_path / "source.safetensors", stated))
    assert (base.family, base.prediction, base.zero_snr) == (family, *predicts)
    written = write_checkpoint(base, {}, tmp_path / "checkpoint.safetensors")
    (tmp_path / "job.json").write_text(json.dumps({"denoiser_only": True}))
    probe = [sys.executable, str(PROBE), str(comfyui_path), str(tmp_path)]
    done = subprocess.run(probe, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    report = json.loads((tmp_path / "report.json").read_text())
    seen = ({"EPS": "epsilon", "V_PREDICTION": "v_prediction"}[report["prediction"]], report["zsnr"])
    assert seen == assumed_by_comfyui(safetensors.torch.load_file(written), FAMILIES[family])
    assert (seen == predicts) == ("ModelSamplingDiscrete" not in caplog.text)
    if family == "sdxl":
        assert seen == predicts and report["model"] == "SDXL"


# ----------------------------------------------------------------------------------------------------- extraction


def test_a_low_rank_difference_is_found_whole():
    random = torch.Generator().manual_seed(0)
    thin = torch.randn(12, 3, generator=random) @ torch.randn(3, 20, generator=random)
    conv = (torch.randn(8, 2, generator=random) @ torch.randn(2, 36, generator=random)).reshape(8, 4, 3, 3)
    pairs, error = svd_low_rank({"unet.a": Dense(thin), "unet.b": Dense(conv), "unet.n": Dense(torch.ones(5))}, 3)
    assert error < 1e-5 and isinstance(pairs["unet.n"], Dense)
    for name, whole in (("unet.a", thin), ("unet.b", conv)):
        assert isinstance(pairs[name], LowRank)
        assert torch.allclose(delta(pairs[name], torch.device("cpu"), whole.shape), whole, atol=1e-4)


def test_the_error_is_what_is_missing():
    """Of a diagonal matrix the smaller entries; of a bias everything."""
    change = Dense(torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])), torch.tensor([1.0, 1.0]))
    _, error = svd_low_rank({"unet.a": change}, 2)
    assert error == pytest.approx(((4 + 1 + 2) / (16 + 9 + 4 + 1 + 2)) ** 0.5)
    assert svd_low_rank({"unet.a": Dense(torch.zeros(3, 3))}, 2)[1] == 0.0
