"""ComfyUI's networks of several families, trained where ComfyUI keeps them: gradients, what is left, and keys."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comfyui_fewshot.models.hosted.families import FAMILIES
from comfyui_fewshot.tests.models.hosted.networks import NETWORKS

pytestmark = pytest.mark.slow
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
    assert found["layers"] == NETWORKS[name].layers
    assert len(found["differences"]) == (found["layers"] if name in FAMILIES else 1)
    assert max(found["differences"]) <= 1e-3
    assert found["checkpoints"] <= 1e-9  # with the blocks computed anew
    assert found["rows"] <= 1e-9  # what a row gives does not depend on the others


def test_every_layer_feels_but_those_that_feed_nothing(report):
    """In Qwen-Image nothing reads what the last block makes of the text."""
    unfelt = {name: 2 * found["layers"] - found["felt"] for name, found in report.items() if name in NETWORKS}
    assert {name: n for name, n in unfelt.items() if n} == {"comfy_qwenimage": 8}


@pytest.mark.parametrize("name", NETWORKS)
def test_latents_are_ksamplers(report, name):
    """At one seed; and KSampler's are the same, bit for bit, after a training on its model."""
    difference, unchanged = report[name]["sampled"]
    assert difference <= 1e-4 and unchanged


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_left_as_it_was(report, name):
    """Its tensors, hooks and modes, after a training that was interrupted."""
    assert report[name]["left"]


def test_families_with_an_entry_train_attention_and_feed_forward_of_their_blocks(report):
    assert {name: report[name]["family"] for name in NETWORKS} == {name: name for name in NETWORKS}
    assert not any("refiner" in path or "modulation" in path for path in report["z_image"]["paths"])
    assert "diffusion_model.single_blocks.1.linear2" in report["flux2"]["paths"]
    assert report["z_image"]["process"] == ["velocity", 1000] and report["flux2"]["process"] == ["velocity", 10000]


def test_a_key_is_of_the_weights_and_of_what_is_patched_on_them(report):
    """Also while a patch is applied to the weights that all clones share."""
    keys = report["keys"]
    assert keys["applied"] == "True"
    assert keys["first"] == keys["second"] == keys["first while applied"] == keys["first afterwards"]
    assert keys["patched"] == keys["patched while applied"]
    others = ("first", "patched", "stronger", "changed", "merged", "merged with another")
    assert len({keys[name] for name in others}) == 6


def test_the_pocket_in_comfyuis_classes_is_that_in_diffusers(report):
    """Prompts, pictures and predictions through ComfyUI's own encoder, autoencoder and network."""
    found = report["pocket"]
    assert found.pop("times") == 1 and found.pop("layers") > 20
    assert max(found.values()) <= 1e-4, found


@pytest.mark.parametrize("name", ["z_image", "flux2"])
def test_half_precision_trains_and_captions_mean_what_they_say(report, name):
    """Also where the first prompt is read with adapters already in the network."""
    found = report["half"][name]
    assert found["finite"] and found["moved"] == NETWORKS[name].layers and found["literal"]


def test_what_is_no_base_is_told(report):
    assert "made for" in report["refusals"]["sampling"] and "before that node" in report["refusals"]["sampling"]
    refused = set(report["refusals"]["no pictures"].split())
    assert {"WAN21_T2V", "LTXV", "HunyuanVideo", "SVD_img2vid", "ACEStep", "Hunyuan3Dv2"} <= refused
    drawing = {"ZImage", "Flux2", "Flux", "QwenImage", "Lumina2", "AuraFlow", "HiDream", "Chroma", "CosmosT2IPredict2"}
    assert not refused & (drawing | {"SD15", "SDXL", "SD3", "HunyuanImage21"})
