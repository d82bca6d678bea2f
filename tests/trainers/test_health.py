"""Trainings whose losses are finite and lost all the same, on the pocket itself; and errors counted by hand."""

import pytest
import torch

from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world import pictures as drawn
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.health import Divergence
from comfyui_fewshot.trainers.loop import Diverged
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

RULE = Divergence(("reference",))


def errors(*parts):
    """(value, how often) in a row."""
    return torch.cat([torch.full((count,), float(value)) for value, count in parts])


def test_two_high_windows_are_lost():
    assert RULE.is_lost(errors((0.2, 10), (0.9, 16)))
    assert RULE.is_lost(errors((0.2, 10), (0.9, 6), (0.1, 3), (0.9, 7)))  # medians forgive single steps
    assert not RULE.is_lost(errors((0.2, 10), (0.9, 13), (0.1, 3)))  # it recovers
    assert not RULE.is_lost(errors((0.2, 10), (0.9, 11)))
    assert not RULE.is_lost(errors((0.2, 10), (0.7, 50)))
    assert not RULE.is_lost(errors((0.2, 15)))


def test_a_network_that_never_knew_anything_is_not_lost_by_staying_so():
    assert not RULE.is_lost(errors((1.1, 100))) and RULE.is_well(errors((1.1, 100)))
    assert RULE.is_lost(errors((1.1, 4), (2.3, 16)))


def test_well_and_high():
    assert RULE.is_well(errors((0.02, 4), (0.3, 10))) and not RULE.is_well(errors((0.2, 10), (0.5, 4)))
    assert RULE.is_high(errors((0.2, 4), (0.9, 8))) and not RULE.is_high(errors((0.2, 10), (0.9, 3)))


def test_the_mean_of_the_terms_counts():
    found = Divergence(("reference", "prior")).errors({"reference": torch.ones(3), "prior": torch.zeros(3)})
    assert found.tolist() == [0.5] * 3


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = drawn.write_subject(tmp_path_factory.mktemp("subject") / "cat", "cat_striped", 2)
    return subject_from_folder(folder, "sks", "cat")


def train(subject, folder, **changes):
    chosen = dict(steps=60, batch_size=2, prior_weight=0.0, validate_every=0) | changes
    return train_subject(base_from_path(WEIGHTS), subject, SubjectSettings(**chosen), TrainingContext(folder, "cpu"))


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_a_rate_far_too_high_is_told_and_its_weights_are_not_kept(subject, tmp_path, rate):
    with pytest.raises(Diverged, match=rf"diverged at step \d+ of 60 .*now unet {rate:g}") as raised:
        train(subject, tmp_path, learning_rate=rate)
    assert raised.value.step <= 8


def test_an_ordinary_rate_is_not_suspected(subject, tmp_path):
    """One picture a step: single losses vary most."""
    result = train(subject, tmp_path, batch_size=1)
    assert max(result.losses) > 3 * min(result.losses)
