"""Fetch Model in a real ComfyUI, without a network: what is there is given, what is not is said with its place."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.vision.fetch import FETCHABLE_MODELS

pytestmark = pytest.mark.server


def graph(model):
    return {"1": {"class_type": "FewShotFetchModel", "inputs": {"model": model}}}


def test_a_model_that_is_there_is_given_and_others_say_where_they_go(server):
    name = "facebook/dinov2-small"
    folder = server.base / "models" / "clip_vision" / "dinov2-small"
    missing = server.run(graph(name))
    assert missing.status == "error"
    told = missing.error["exception_message"]
    assert "could not be fetched" in told and f"huggingface.co/{name}" in told and str(folder) in told
    assert "Offline" in told, "the tests' server is told to stay off the network"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    save_file({"weight": torch.zeros(2)}, folder / "model.safetensors")
    there = server.succeed(graph(name))
    assert str(folder) in there.outputs("1")["text"][0]
    (folder / "model.safetensors").write_bytes(b"cut")
    assert server.run(graph(name)).status == "error", "weights that were cut are no model"
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["someone/else", "../../etc"])
def test_only_known_models_are_fetched(server, name):
    assert name not in FETCHABLE_MODELS
    assert "1" in server.refused(graph(name))["node_errors"]
