"""The bench of refinement: what it judges is never learned, costs are counted right, and curves are read right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.benchmarks import refine
from comfyui_fewshot.benchmarks._refine_costs import per_round, within
from comfyui_fewshot.models.loading import base_from_path, open_base
from comfyui_fewshot.models.values import Concept, TrainingSet
from comfyui_fewshot.models.watching import Silent
from comfyui_fewshot.pocket import words, world
from comfyui_fewshot.tests.trainers.conftest import tiny_folder
from comfyui_fewshot.tests.trainers.refining import PROMPTS, QUICK
from comfyui_fewshot.tests.trainers.test_refinement_methods import Slope
from comfyui_fewshot.trainers.processes import Alone
from comfyui_fewshot.trainers.refinement import Refinement, split
from comfyui_fewshot.trainers.refinement_settings import METHODS


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_from_path(tiny_folder(tmp_path_factory.mktemp("base"), words.build))


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_those_that_the_denoiser_has(base, method):
    """A forward without gradients counts 1 a row, one with them 3."""
    changes = refine.read_by(method, dict(skip_last=1, trained_steps=3, sampling_steps=5))
    changes = dict(trained_steps=8) | changes  # where a method does not read it, it stays at its default
    settings = replace(QUICK, method=method, resolution=32, alpha=2.0, micro_batch=16, guidance=2.0, **changes)
    counted = 0

    def count(_, given):
        nonlocal counted
        counted += len(given[0]) * (3 if torch.is_grad_enabled() else 1)

    with open_base(base, torch.device("cpu")) as networks:
        handle = networks.unet.register_forward_pre_hook(count)
        whole = TrainingSet((), (Concept("sks", "ball"),))
        step, injected = Refinement(None, *split(PROMPTS), Slope()).prepare(networks, whole, settings, None, Silent())
        for update in range(settings.updates):
            for terms in step.passes(update, Alone().share):
                del terms
        injected.remove()
        handle.remove()
    assert counted == per_round(settings)
    assert within(settings, 10 * per_round(settings)).steps == 10 * settings.updates


def test_what_is_judged_is_never_learned_and_both_forms_are_there():
    for noun in ("cat", "boat"):
        for share in (1.0, 0.5):
            made = refine.prompts(noun, share).prompts
            learned = [prompt for prompt in made if prompt.split == "train"]
            watched = [prompt for prompt in made if prompt.split == "held-out"]
            judged = {ask.prompt for ask in refine.unseen(noun)} | {
                ask.prompt.replace(f"sks {noun}", noun) for ask in refine.unseen(noun)
            }
            assert not judged & {prompt.text for prompt in made} and len(watched) == refine.GUARDED
            named = sum("sks" in prompt.text for prompt in learned)
            assert named == share * len(learned) and len(learned) >= 20
            assert all(set(prompt.text.split()) <= set(world.vocabulary()) for prompt in made)


def test_curves_are_read_between_their_points():
    curve = [(0.9, 0.2), (0.5, 0.6)]
    assert refine.at(curve, 0.7) == pytest.approx(0.4)
    assert refine.at(curve, 0.95) == 0.2 and refine.at(curve, 0.1) == 0.6
    assert refine.steps_to({0: 0.0, 4: 1.0, 8: 2.0}, 1.5) == 6 and refine.steps_to({0: 0.0, 4: 1.0}, 3.0) == 8


def test_all_settings_of_the_bench_are_known():
    bench = refine.Bench(None, quick=False)
    for method in METHODS:
        settings = bench.settings(refine.METHOD_BUDGET, method=method)
        spent = settings.steps // settings.updates * per_round(settings)
        assert 0.8 * refine.METHOD_BUDGET <= spent <= refine.METHOD_BUDGET
    assert bench.settings(refine.BUDGET, **refine.DDPO_THEIRS).method == "ddpo"
