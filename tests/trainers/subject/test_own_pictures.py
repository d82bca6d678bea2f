"""Prior preservation on the pocket's trained base: what it drew itself teaches it next to nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.augmentation.images.load import subject_from_folder
from comfyui_fewshot.augmentation.priors.generate import PriorSettings, generate_priors
from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world.pictures import write_subject
from comfyui_fewshot.trainers.subject.method import PRIOR, REFERENCE, SubjectTraining
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

CPU = torch.device("cpu")
SHORT = SubjectSettings(
    steps=100, resolution=64, rank=4, alpha=4.0, micro_batch=8, batch_size=2, seed=1, text_learning_rate=1e-4
)
ASKED = ["a photo of a cat in the snow", "a picture of a cat in a room"]


@pytest.fixture(scope="module")
def base():
    return base_from_path(WEIGHTS)


@pytest.fixture(scope="module")
def with_priors(base, tmp_path_factory):
    """Four pictures of a subject and sixteen of its class, drawn without guidance: from the base's own distribution."""
    folder = tmp_path_factory.mktemp("own")
    write_subject(folder / "subject", "cat_patched", 4)
    pictures = subject_from_folder(folder / "subject", "sks", "cat")
    settings = PriorSettings(count=16, steps=10, guidance=1.0)
    return generate_priors(base, pictures, settings, RunContext(folder / "priors", CPU)).pictures


def prepared(model, pictures, **changes):
    return SubjectTraining().prepare(model, pictures, replace(SHORT, **changes), None, NullProgress())


def test_at_the_first_step_the_prior_loss_is_the_base_s_own_error(base, with_priors):
    with open_base(base, CPU, NullProgress()) as model:
        step, injected = prepared(model, with_priors)
        half = step.draw(PRIOR, 0, range(4))
        with torch.no_grad():
            found = step.errors(PRIOR, half, *step.predict([half]))
            injected.remove()
            plain = denoise(model, half.latents, half.times, encode_prompts(model, half.prompts))
        expected = (plain - half.target).square().mean((1, 2, 3))
        assert torch.allclose(found, expected, rtol=0.05) and 0.01 < expected.mean() < 0.5


def change(base, pictures, term):
    """The mean squared change of pictures of the class by 50 steps on one term alone."""
    with open_base(base, CPU, NullProgress()) as model:
        how = dict(width=64, height=64, steps=6, guidance=1.0)
        before = sample(model, ASKED, [5, 6], SamplingOptions(**how))
        step, injected = prepared(model, pictures)
        optimiser = torch.optim.AdamW(injected.parameters.values(), lr=5e-4)
        for number in range(50):
            half = step.draw(term, number, range(2))
            optimiser.zero_grad()
            step.errors(term, half, *step.predict([half])).mean().backward()
            optimiser.step()
        return (sample(model, ASKED, [5, 6], SamplingOptions(**how)) - before).square().mean().item()


@pytest.mark.slow
def test_its_own_pictures_change_the_base_by_less_than_a_fifth(base, with_priors):
    by_references, by_priors = (change(base, with_priors, term) for term in (REFERENCE, PRIOR))
    assert 0 < by_priors < by_references / 5
