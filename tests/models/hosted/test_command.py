"""A base that ComfyUI loads in parts, outside of a graph: by one process, and by two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from comfyui_fewshot.models.adapters.formats import read_lora
from comfyui_fewshot.tests.trainers.conftest import picture_folder  # noqa: F401 - a fixture
from comfyui_fewshot.trainers import __main__ as command

pytestmark = pytest.mark.slow
COMFYUI = os.environ.get("COMFYUI_PATH", "")
SETTINGS = dict(steps=3, learning_rate=1e-3, rank=2, batch_size=2, resolution=64, seed=5, micro_batch=1)
FILES = "comfyui_fewshot.tests.models.hosted.files"
MODULE = "comfyui_fewshot.tests.models.hosted.command"
LAUNCH = (
    "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    f"--dynamo_backend no --main_process_port 0 -m {MODULE}"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of a small FLUX.2; of its encoders only names matter here."""
    made = tmp_path_factory.mktemp("parts")
    subprocess.run([sys.executable, "-m", FILES, COMFYUI, str(made)], check=True)
    for name in ("words", "vae"):
        (made / f"{name}.safetensors").write_bytes((made / "flux2_plain.safetensors").read_bytes())
    return made


def written(folder, pictures, name, **changes):
    files = dict(base="flux2_plain.safetensors", text_encoder="words.safetensors", vae="vae.safetensors")
    run = files | dict(runs=name, noun="ball", pictures=str(pictures), identifier="sks", settings=SETTINGS)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in (run | changes).items() if value is not None}))
    return path


def trained(start, path):
    call = [sys.executable, *start, "--cpu", "--comfyui", COMFYUI, str(path)]
    known = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, env=known, cwd=path.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = (path.parent / path.stem).glob("*/subject.safetensors")
    return done.stderr, read_lora(file)


def test_two_processes_give_what_one_gives(folder, picture_folder):  # noqa: F811
    """In a folder that holds a `nodes` of its own, which would stand in the way of ComfyUI's."""
    (folder / "nodes.py").write_text("raise ImportError('the wrong one')")
    _, one = trained(["-m", MODULE], written(folder, picture_folder, "one"))
    said, two = trained(LAUNCH, written(folder, picture_folder, "two"))
    assert "2 processes compute on cpu" in said and one.family == "flux2"
    assert one.factors.keys() == two.factors.keys()
    assert all(torch.equal(factor.up, two.factors[path].up) for path, factor in one.factors.items())
    assert all(torch.equal(factor.down, two.factors[path].down) for path, factor in one.factors.items())
    assert any(factor.up.any() for factor in one.factors.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "add --comfyui"),
        ({"vae": None}, "needs both"),
        ({"dtype": "float16"}, "leave them out"),
    ],
)
def test_mistakes_are_told(folder, picture_folder, caplog, changes, words):  # noqa: F811
    assert command.main([str(written(folder, picture_folder, "wrong", **changes)), "--cpu"]) == 1
    assert words in caplog.text


def test_a_folder_without_comfyui_is_told(folder, picture_folder, caplog):  # noqa: F811
    path = written(folder, picture_folder, "nowhere")
    assert command.main([str(path), "--cpu", "--comfyui", str(folder)]) == 1
    assert "there is no ComfyUI in" in caplog.text
