"""LoRA files in every naming and form against ComfyUI's own loader on the same base: the same weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from comfyui_fewshot.models.adapters.apply import applied, find_module
from comfyui_fewshot.models.adapters.formats import from_tensors, read_lora, to_kohya, write_lora
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.lora_names import path_of
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion

from ... import checkpoints
from ...checkpoints import TextShape, UNetShape, VaeShape
from .lora_files import FILES

pytestmark = pytest.mark.slow
PROBE = Path(checkpoints.__file__).with_name("probes") / "loader_probe.py"
STRENGTHS = (1.0, 0.7)
SHAPE = UNetShape(layers=2, context=768)
TEXT = TextShape(layers=2)
# Names of diffusers and PEFT that ComfyUI's loader knows in part: what is written here for it is applied whole.
PARTLY = {
    "diffusers_peft", "diffusers_lora", "diffusers_linear_layers", "diffusers_without_unet", "peft", "peft_in_unet",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(comfyui_path: Path, tmp_path_factory) -> Path:
    """A base, all files, and what ComfyUI makes of them."""
    folder = tmp_path_factory.mktemp("loader")
    checkpoints.save(checkpoints.sd1(SHAPE, TEXT, VaeShape(32, (1, 1, 1, 1), 1)), folder / "checkpoint.safetensors")
    for case, tensors in FILES.items():
        safetensors.torch.save_file(tensors, folder / f"{case}.safetensors")
        again = read_lora(folder / f"{case}.safetensors", base_family="sd1")
        safetensors.torch.save_file(to_kohya(again, torch.float32), folder / f"{case}_again.safetensors")
    options = {"clip_l_model_config": {"num_hidden_layers": TEXT.layers}}
    cases = [*FILES, *(f"{case}_again" for case in FILES)]
    (folder / "job.json").write_text(json.dumps({"cases": cases, "strengths": STRENGTHS, "text_options": options}))
    done = subprocess.run([sys.executable, str(PROBE), str(comfyui_path), str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def base(folder: Path, comfyui_path: Path) -> Iterator[StableDiffusion]:
    ref = base_from_path(folder / "checkpoint.safetensors")
    with open_base(ref, "cpu", tokenizer_folder=comfyui_path / "comfy/sd1_tokenizer") as model:
        yield model


def parameter(model: StableDiffusion, key: str) -> Tensor:
    """The parameter that ComfyUI calls `key`."""
    module, _, name = key.rpartition(".")
    path = path_of(module if module.startswith("diffusion_model.") else f"text_encoders.{module}")
    assert path is not None, key
    return getattr(find_module(model.parts(), path), name)


@pytest.mark.parametrize("case", FILES)
def test_a_file_does_what_it_does_in_comfyui(folder: Path, base: StableDiffusion, case: str):
    """Read here, and written again for ComfyUI, it changes the same weights, and each as ComfyUI's loader does."""
    adapter = read_lora(folder / f"{case}.safetensors", base_family="sd1")
    for strength in STRENGTHS:
        theirs = safetensors.torch.load_file(folder / f"{case}@{strength}.out")
        written = safetensors.torch.load_file(folder / f"{case}_again@{strength}.out")
        if case in PARTLY:
            assert len(written) > len(theirs.keys() - {"nothing"})
            theirs = written
        before = {key: parameter(base, key).clone() for key in theirs}
        assert theirs.keys() == written.keys()
        count = sum((getattr(f, "only_bias", False) is False) + (f.bias is not None) for f in adapter.factors.values())
        assert len(theirs) == count
        with applied(base, [(adapter, strength)]):
            for key, wanted in theirs.items():
                size = float((wanted - before[key]).abs().max())
                assert size > 1e-4, key
                for found in (parameter(base, key), written[key]):
                    assert float((found - wanted).abs().max()) <= 1e-6 * max(1.0, float(wanted.abs().max())), key
        assert all(torch.equal(parameter(base, key), weight) for key, weight in before.items())


def test_comfyui_takes_all_of_what_is_written(folder: Path):
    report = json.loads((folder / "report.json").read_text())
    assert not {case: lines for case, lines in report.items() if lines and case not in (*PARTLY, "leftovers")}


def test_what_is_written_reads_the_same(tmp_path: Path):
    for case, tensors in FILES.items():
        adapter = from_tensors(tensors, base_family="sd1")
        back = read_lora(write_lora(adapter, tmp_path / f"{case}.safetensors"))
        assert back.factors.keys() == adapter.factors.keys(), case
