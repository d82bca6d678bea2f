"""Gradients of ComfyUI's networks of several families, trained where ComfyUI keeps them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comfyui_fewshot.tests.models.hosted.networks import NETWORKS

PROBE = "comfyui_fewshot.tests.models.hosted.probe"


@pytest.fixture(scope="module")
def report(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    file = tmp_path_factory.mktemp("hosted") / "report.json"
    done = subprocess.run([sys.executable, "-m", PROBE, comfyui_path, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_has_the_right_gradient(report, name):
    """In float64, of a batch of three captions of which one is shorter, for weights from a running graph."""
    found = report[name]
    assert found["layers"] == len(found["differences"]) == NETWORKS[name].layers
    assert max(found["differences"]) <= 1e-3
    assert found["checkpoints"] <= 1e-9  # with the blocks computed anew
    assert found["rows"] <= 1e-9  # what a row gives does not depend on the others


def test_every_layer_feels_but_those_that_feed_nothing(report):
    """In Qwen-Image nothing reads what the last block makes of the text."""
    unfelt = {name: 2 * found["layers"] - found["felt"] for name, found in report.items() if name in NETWORKS}
    assert {name: n for name, n in unfelt.items() if n} == {"comfy_qwenimage": 8}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_left_as_it_was(report, name):
    """Its tensors, hooks and modes, after a training that was interrupted."""
    assert report[name]["left"]


def test_families_with_an_entry_train_attention_and_feed_forward_of_their_blocks(report):
    assert {name: report[name]["family"] for name in NETWORKS} == {name: name for name in NETWORKS}
    assert not any("refiner" in path or "modulation" in path for path in report["z_image"]["paths"])
    assert "diffusion_model.single_blocks.1.linear2" in report["flux2"]["paths"]
    assert report["z_image"]["process"] == ["velocity", 1000] and report["flux2"]["process"] == ["velocity", 10000]
