"""What a reading sees of held-out prompts, against the same computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.pocket.models.weights import WEIGHTS
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
    found, spreads = reader(4)
    pictures, clip = reader._draw(reader.prompts, reader.seeds), Clip(CLIP)
    assert [prompt.text for prompt in reader.prompts] == [prompt.text for prompt in HELD_OUT for _ in range(2)]
    seen, looks = clip.images(pictures).double(), clip.images(LOOKS).double()
    texts = clip.texts([prompt.stripped for prompt in reader.prompts]).double()
    rewards = Redness().scores(pictures, reader.prompts)
    assert found.step == 4 and found.rewards == pytest.approx((float(rewards.mean()),), abs=1e-6)
    assert spreads == pytest.approx((float(rewards.std(correction=0)),), abs=1e-6)
    named = [i for i, prompt in enumerate(reader.prompts) if "sks" in prompt.text]
    assert len(named) == 4
    likeness = sum(float(seen[i] @ look) for i in named for look in looks) / (len(named) * len(looks))
    assert found.subject == pytest.approx(likeness, abs=1e-5)
    variety = sum(1 - float(seen[i] @ seen[i + 1]) for i in (0, 2, 4)) / 3
    assert found.diversity == pytest.approx(variety, abs=1e-5) and variety > 0
    fits = sum(float(seen[i] @ texts[i]) for i in range(6)) / 6
    assert found.held_out == pytest.approx(fits, abs=1e-5)
    assert (tmp_path / "samples" / "reading_00000004.png").is_file()


def test_a_reading_is_always_of_the_same_noise(reading):
    reader = reading(validator=Validator(CLIP))
    assert replace(reader(2)[0], step=0) == reader(0)[0]


def test_the_rewards_own_clip_is_no_other_metric(reading):
    found, _ = reading(validator=Validator(CLIP), reward_folders=[CLIP.resolve()])(0)
    assert math.isnan(found.held_out) and found.subject > 0 and found.diversity > 0


def test_without_models_the_reward_alone_is_read(reading, caplog):
    found, _ = reading()(0)
    assert "there is no CLIP to watch over likeness and variety" in caplog.text
    assert all(map(math.isnan, (found.subject, found.diversity, found.held_out))) and math.isfinite(found.rewards[0])


def test_without_pictures_likeness_is_measured_to_the_start(reading):
    reader = reading(validator=Validator(CLIP), looks=())
    assert len(reader.reference_embeddings) == ALONE and reader(0)[0].subject > 0.5


def test_prompts_of_the_class_alone_cannot_be_like_the_subject(reading, caplog):
    plain = [prompt for prompt in split(PROMPTS)[1] if "sks" not in prompt.text]
    found, _ = reading(plain, Validator(CLIP))(0)
    assert math.isnan(found.subject) and found.diversity > 0
    assert "no held-out prompt names the subject" in caplog.text


def test_a_reading_that_cannot_be_taken_stops_the_start_and_later_counts_as_failed(reading, caplog):
    reader = reading(reward_models=Red(float("nan")).open(torch.device("cpu"), ()))
    with pytest.raises(FewShotError, match="redness gave"):
        reader(0)
    found, spreads = reader(2)
    assert math.isnan(found.rewards[0]) and spreads == (1.0,)
    assert "the reading after step 2 failed and does not count" in caplog.text
