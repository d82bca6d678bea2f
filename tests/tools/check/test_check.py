"""`run.py check models`: small random models are seen as such, the pocket's own as models that see."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.tools.check import __main__ as command
from comfyui_fewshot.tools.check import probes, scenes
from comfyui_fewshot.tools.check.models import SOURCES, FoundModel, brings, found_models, missing_models
from comfyui_fewshot.vision.fetch import FETCHABLE_MODELS
from comfyui_fewshot.vision.segmenters.interface import Instance

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A models folder as people have it: random models, a working CLIP, a download that broke off, and half of one."""
    folder = tmp_path_factory.mktemp("models")
    tiny.clipseg(folder / "clipseg" / "random")
    tiny.sam(folder / "sams" / "random")
    tiny.blip(folder / "captioners" / "random")
    shutil.copytree(WEIGHTS / "clip", folder / "clip_vision" / "a_clip")
    shutil.copytree(folder / "sams" / "random", folder / "sams" / "cut")
    cut = folder / "sams" / "cut" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    (folder / "owlv2" / "half").mkdir(parents=True)
    (folder / "owlv2" / "half" / "model.safetensors").write_bytes(b"x")
    return folder


def test_each_model_gets_its_verdict(models, capsys):
    assert command.main(["--models", str(models)]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line and line[0] != " "]
    verdicts = {line[11:].partition(" (")[0]: line[:10].strip() for line in lines[1:-2]}
    assert verdicts["CLIP: pocket's own"] == verdicts["CLIPSeg: pocket's own"] == "works"
    assert verdicts["CLIPSeg: random"] == verdicts["SAM: random"] == verdicts["BLIP: random"] == "wrong"
    assert verdicts["SAM: cut"] == verdicts["unknown: owlv2/half"] == "broken"
    assert {"Grounding DINO", "DINO", "PickScore", "ImageReward", "language model"} <= set(verdicts)
    assert verdicts["DINO"] == "not there" and "CLIPSeg" not in verdicts


def test_what_is_wrong_is_said_in_a_sentence(models):
    found = {(model.role, model.name): model for model in found_models([models])}
    word, text = command.verdict(found["SAM", "cut"], CPU)
    assert word == "broken" and "cut short or damaged" in text and "\n" not in text
    word, text = command.verdict(found["SAM", "random"], CPU)
    assert word == "wrong" and "(at least 0.7)" in text

    def raises(location, device, known):
        raise IndexError("index out of range\nand more")

    assert command.verdict(FoundModel("x", "x", models, raises), CPU) == ("broken", "IndexError: index out of range")


def test_a_disk_with_working_models_alone_is_well(tmp_path, capsys):
    assert command.main(["--models", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2 works, 0 wrong, 0 broken" in shown
    assert "run the node Fetch Model with facebook/sam-vit-base, which puts it into models/sams" in shown


def test_everything_that_can_be_fetched_is_named_where_it_lacks():
    named = {source for source in SOURCES.values() if source in FETCHABLE_MODELS}
    assert named == set(FETCHABLE_MODELS)
    assert all("models/" in brings(source) for source in SOURCES.values())
    there = [FoundModel("CLIP", "a", WEIGHTS, pocket=True), FoundModel("DINO", "b", WEIGHTS)]
    lacking = dict(missing_models(there))
    assert "CLIP" in lacking and "DINO" not in lacking  # the pocket's own is not a person's


def test_the_pictures_hold_what_they_are_said_to():
    for known in (scenes.drawn(), scenes.pocket()):
        for one in (known.one, known.again, known.other):
            left, top, right, bottom = map(int, one.box)
            assert one.mask.shape == one.picture.size[::-1] and 0.02 < one.mask.mean() < 0.6
            assert one.mask[top:bottom, left:right].sum() == one.mask.sum()
        assert known.one.caption == known.again.caption != known.other.caption
    ball = scenes.drawn().one
    red, green, blue = np.asarray(ball.picture)[ball.mask].mean(0)
    assert red > 2 * green and red > 2 * blue


def test_shares_of_masks_and_boxes():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert probes.iou(mask, mask) == 1 and probes.iou(mask, ~mask) == 0 and probes.iou(mask & ~mask, mask & ~mask) == 0
    assert probes.box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert probes.box_iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0


class Finds:
    """A finder with a box for the thing that is there, and a score for each of both."""

    threshold = 0.3

    def __init__(self, box, there: float, absent: float):
        self.box, self.scores = box, {"red ball": there, "elephant": absent}

    def find(self, picture, phrases, threshold):
        return [Instance(self.box, self.scores[phrases[0]], phrases[0])]


@pytest.mark.parametrize(
    "box, there, absent, works",
    [
        ((88, 220, 312, 442), 0.8, 0.1, True),
        ((88, 220, 312, 442), 0.8, 0.9, False),  # it sees what is not there
        ((88, 220, 312, 442), 0.2, 0.1, False),  # below its own threshold
        ((0, 0, 100, 100), 0.8, 0.1, False),  # elsewhere
    ],
)
def test_a_finder_must_find_the_thing_where_it_is(monkeypatch, box, there, absent, works):
    monkeypatch.setattr(probes, "open_finder", lambda *_: Finds(box, there, absent))
    assert probes.finder(Path(), CPU, scenes.drawn()).works is works
