"""What a reading sees of held-out prompts, against the same computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.trainers.refine.guards import Reading
from comfyui_fewshot.trainers.refine.method import split
from comfyui_fewshot.trainers.refine.readings import ALONE, HeldOut, Reader
from comfyui_fewshot.trainers.validation.image_metrics import Validator
from comfyui_fewshot.vision.embedders.clip import Clip

from .refining import CHOSEN, PROMPTS, Red, Redness, opened

CLIP = WEIGHTS / "clip"
HELD_OUT = split(PROMPTS)[1][:3]  # two that name the subject, and one of the class
LOOKS = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]


@pytest.fixture
def reading(base, tmp_path):
    """Makes a reader of the tiny base as it is, for some prompts, models and pictures of the subject."""
    with opened(base) as (step, _, _):

        def make(prompts=HELD_OUT, validator=None, reward_folders=(), looks=LOOKS, reward_models=None):
            reward_models = reward_models or step.reward_models
            held_out = HeldOut(prompts, looks, reward_folders)
            return Reader(step.sampler, reward_models, held_out, CHOSEN, validator, tmp_path / "samples")

        yield make


def test_likeness_variety_and_what_is_not_rewarded(reading, tmp_path):
    reader = reading(validator=Validator(CLIP))
    found = reader(4)
    pictures, clip = reader._draw(reader.prompts, reader.seeds), Clip(CLIP)
    assert [prompt.text for prompt in reader.prompts] == [prompt.text for prompt in HELD_OUT for _ in range(2)]
    seen, looks = clip.images(pictures).double(), clip.images(LOOKS).double()
    texts = clip.texts([prompt.stripped for prompt in reader.prompts]).double()
    rewards = Redness().scores(pictures, reader.prompts)
    assert found.step == 4 and reader.groups == [0, 0, 1, 1, 2, 2]
    assert found.rewards[0] == pytest.approx(rewards.tolist(), abs=1e-6)
    named = [i for i, prompt in enumerate(reader.prompts) if "sks" in prompt.text]
    assert len(named) == 4
    for i in range(6):
        likeness = sum(float(seen[i] @ look) for look in looks) / len(looks)
        assert found.subject[i] == pytest.approx(likeness, abs=1e-5) if i in named else math.isnan(found.subject[i])
        assert found.diversity[i] == pytest.approx(1 - float(seen[i] @ seen[i ^ 1]), abs=1e-5)  # the prompt's other one
        assert found.held_out[i] == pytest.approx(float(seen[i] @ texts[i]), abs=1e-5)
    assert min(found.diversity) > 0
    assert (tmp_path / "samples" / "reading_00000004.png").is_file()


def test_fewer_prompts_are_drawn_more_often_each(reading):
    """So that a reading has as many pictures; each is compared with all others of its prompt."""
    reader = reading(HELD_OUT[:1], Validator(CLIP))
    found, seen = reader(0), Clip(CLIP).images(reader._draw(reader.prompts, reader.seeds)).double()
    assert CHOSEN.guard_prompts == 2 and reader.count == 4 and reader.groups == [0] * 4
    variety = [sum(1 - float(seen[i] @ seen[j]) for j in range(4) if j != i) / 3 for i in range(4)]
    assert found.diversity == pytest.approx(variety, abs=1e-5)


def test_a_reading_is_always_of_the_same_noise(reading):
    named = [prompt for prompt in HELD_OUT if "sks" in prompt.text]
    reader = reading(named, Validator(CLIP))
    assert replace(reader(2), step=0) == reader(0)


def test_the_rewards_own_clip_is_no_other_metric(reading):
    found = reading(validator=Validator(CLIP), reward_folders=[CLIP.resolve()])(0)
    assert not found.held_out and found.mean("subject") > 0 and found.mean("diversity") > 0


def test_without_models_the_reward_alone_is_read(reading, caplog):
    found = reading()(0)
    assert "there is no CLIP to watch over likeness and variety" in caplog.text
    assert not (found.subject or found.diversity or found.held_out) and all(map(math.isfinite, found.rewards[0]))
    assert Reading.from_table(0, found.table) == found and math.isnan(found.mean("subject"))


def test_without_pictures_likeness_is_measured_to_the_start(reading):
    reader = reading(validator=Validator(CLIP), looks=())
    assert len(reader.reference_embeddings) == ALONE and reader(0).mean("subject") > 0.5


def test_prompts_of_the_class_alone_cannot_be_like_the_subject(reading, caplog):
    plain = [prompt for prompt in split(PROMPTS)[1] if "sks" not in prompt.text]
    found = reading(plain, Validator(CLIP))(0)
    assert not found.subject and found.mean("diversity") > 0
    assert "no held-out prompt names the subject" in caplog.text
    reading([*plain, HELD_OUT[0]], Validator(CLIP))
    assert "one held-out prompt alone names the subject" in caplog.text


def test_a_reading_that_cannot_be_taken_stops_the_start_and_later_counts_as_failed(reading, caplog):
    reader = reading(reward_models=Red(float("nan")).open(torch.device("cpu"), ()))
    with pytest.raises(FewShotError, match="redness gave"):
        reader(0)
    found = reader(2)
    assert len(found.rewards[0]) == 6 and all(map(math.isnan, found.rewards[0]))
    assert "the reading after step 2 failed and does not count" in caplog.text
