"""The dry run and validation as a person sees them: the plan on its node, the chosen step, the curve below the loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from comfyui_fewshot.pocket.models.likeness import build_clip, processor
from comfyui_fewshot.pocket.world.words import build
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.vision.embedders.test_clip_vision import in_comfy_names, tower

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def clip(server):
    """A CLIP of the pocket's shape with random weights in models/clip_vision."""
    folder = server.base / "models" / "clip_vision" / "tiny-clip"
    folder.mkdir(parents=True)
    build_clip(build(folder)).save_pretrained(folder)
    processor().save_pretrained(folder)
    yield folder.name
    shutil.rmtree(folder)  # the other tests' trainings are not validated


def test_the_plan_is_told_and_shown(server, info):
    graph = graphs.training(info)
    del graph["train"]
    graph["plan"] = graphs.node(
        "FewShotTrainingPlan", base=["base", 0], set=["set", 0], settings=["settings", 0], timed_steps=1
    )
    graph["seen"] = graphs.node("PreviewAny", source=["plan", 0])
    outcome = server.succeed(graph)
    (text,) = outcome.outputs("seen")["text"]
    assert "pictures: 2 references, 0 priors" in text and "s a step (measured over 1 on cpu)" in text
    assert "on 8 GB (estimated): " in text and "there is no CLIP" in text
    shown = outcome.outputs("plan")
    assert shown["text"] == [text] and server.picture(shown["images"][0]).width > 0


def test_training_is_validated_by_a_clip_on_the_disk(server, info, clip):
    offered = server.get("/object_info/FewShotTrainSubject")["FewShotTrainSubject"]["input"]["optional"]
    assert offered["validation"][1]["options"] == ["auto", "off", clip]
    graph = graphs.training(info, seed=21, validate_every=2, validation_pictures=2)
    graph["curve"] = graphs.node("FewShotLossCurve", losses=["train", 2], curves="loss")
    graph["native"] = graphs.node("LossGraphNode", loss=["train", 2], filename_prefix="loss")
    outcome = server.succeed(graph)
    lines = outcome.outputs("train")["text"][0].splitlines()
    folder = Path(lines[-1])
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["validation"]["step"] == [0, 2, 3]
    best = (
        f"step {result['chosen']} is the best of 2 validated",
        "no validation saw a gain: the last step (3) is returned",
    )
    assert lines[1].startswith(best)
    assert (folder / "report.html").is_file() and len(list((folder / "samples").glob("validation_*.png"))) == 3
    picture = server.picture(outcome.outputs("curve")["images"][0])
    assert picture.height == 840  # the loss, and the validations below


def test_off_is_off(server, info, clip):
    graph = graphs.training(info, seed=22)
    graph["train"]["inputs"]["validation"] = "off"
    lines = server.succeed(graph).outputs("train")["text"][0].splitlines()
    assert lines[1] == "not validated: the last step is returned"
    assert json.loads((Path(lines[-1]) / "result.json").read_text(encoding="utf-8"))["validation"] is None


def test_a_vision_tower_in_a_file_is_offered_and_sees_the_likeness(server, info, clip):
    """A single file as ComfyUI's own loader of CLIP vision lists it; weights in a folder are no such."""
    file = server.base / "models" / "clip_vision" / "clip_vision_x.safetensors"
    save_file(in_comfy_names(tower(24)), file)
    try:
        offered = server.get("/object_info/FewShotTrainingPlan")["FewShotTrainingPlan"]["input"]["optional"]
        assert offered["validation_dino"][1]["options"] == ["none", file.name]
        graph = graphs.training(info)
        del graph["train"]
        graph["plan"] = graphs.node(
            "FewShotTrainingPlan", base=["base", 0], set=["set", 0], settings=["settings", 0], timed_steps=0,
            validation_dino=file.name,
        )  # fmt: skip
        (text,) = server.succeed(graph).outputs("plan")["text"]
        assert text.endswith(f"validated by {clip}, likeness by {file.name}")
    finally:
        file.unlink()
