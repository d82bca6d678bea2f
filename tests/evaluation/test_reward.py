"""Rewards as values and as what judges: keys, likeness only where the subject is named, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Picture, Prompt
from comfyui_fewshot.evaluation.reward import Reward, RewardModels, RewardTerm, WeightedMetric
from comfyui_fewshot.pocket.models.weights import WEIGHTS

CLIP = Path(WEIGHTS) / "clip"
REFERENCE = Picture(Path("cat.png"), "k", 8, 8)
PICTURES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
PROMPTS = [Prompt("a sks cat", "a cat"), Prompt("a cat", "a cat")]


def test_a_key_follows_contents_and_weights_and_not_places(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "config.json").write_text("{}")
    keys = [
        Reward((RewardTerm("CLIP-T", tmp_path / name, weight),)).key for name, weight in (("a", 1), ("b", 1), ("a", 2))
    ]
    assert keys[0] == keys[1] != keys[2]
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert Reward((RewardTerm("CLIP-T", tmp_path / "b", 1),)).key != keys[0]


def test_rewards_read_prompts_without_identifiers_and_likeness_needs_them():
    reward = Reward((RewardTerm("CLIP-T", CLIP), RewardTerm("CLIP-I", CLIP, 0.5)), (REFERENCE,))
    judge = reward.open("cpu", PICTURES[:1])
    found = judge.scores(PICTURES, PROMPTS)
    assert found.shape == (2, 2) and judge.weights == [1.0, 0.5] and len(judge.models) == 1
    assert found[1, 1].isnan() and abs(found[1, 0] - 1) < 1e-4
    other = judge.scores(PICTURES, [Prompt("a xyz cat", "a cat")] * 2)
    torch.testing.assert_close(found[0], other[0])


class Broken:
    name, model_id = "broken", ""

    def __init__(self, value):
        self.value = value

    def scores(self, images, prompts, references):
        return self.value


@pytest.mark.parametrize("value", [torch.tensor([1.0, torch.nan]), torch.tensor([1.0])])
def test_what_is_no_number_for_each_picture_is_refused(value):
    with pytest.raises(FewShotError, match="broken gave"):
        RewardModels((WeightedMetric(Broken(value), "prompt"),)).scores(PICTURES, PROMPTS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RewardTerm("CLIP", CLIP), "no reward 'CLIP'"),
        (lambda: RewardTerm("CLIP-T", CLIP, 0.0), "weight of CLIP-T"),
        (lambda: Reward(()), "at least one"),
        (lambda: Reward((RewardTerm("CLIP-T", CLIP),) * 2), "named twice"),
        (lambda: Reward((RewardTerm("DINO", CLIP),)), "connect Subject Pictures"),
    ],
)
def test_rewards_that_cannot_be_are_refused(make, message):
    with pytest.raises(FewShotError, match=message):
        make()


def test_what_is_made_of_a_published_file_makes_no_other_key(tmp_path):
    (tmp_path / "ImageReward.pt").write_bytes(b"published")
    key = RewardTerm("ImageReward", tmp_path).model
    (tmp_path / "ImageReward.safetensors").write_bytes(b"made of it")
    assert RewardTerm("ImageReward", tmp_path).model == key
    (tmp_path / "ImageReward.pt").write_bytes(b"another")
    assert RewardTerm("ImageReward", tmp_path).model != key
