"""The bench of refinement: what it judges is never learned, costs are counted right, and curves are read right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.benchmarks.harness import workshop
from comfyui_fewshot.benchmarks.refine import bench as refine
from comfyui_fewshot.benchmarks.refine import curves, ddpo_comparison, methods, oracle, size
from comfyui_fewshot.benchmarks.refine.costs import per_round, within
from comfyui_fewshot.benchmarks.refine.ddpo_reference import DdpoSettings
from comfyui_fewshot.benchmarks.refine.parts import parts_of
from comfyui_fewshot.benchmarks.refine.prompts import GUARD_PROMPTS
from comfyui_fewshot.benchmarks.refine.size import EvaluationBudgets
from comfyui_fewshot.benchmarks.subject.training_cases import SubjectRun
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Concept, Prompt, TrainingSet
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.pocket.world import drawing, words, world
from comfyui_fewshot.pocket.world.pictures import subject_named
from comfyui_fewshot.tests.trainers.conftest import tiny_folder
from comfyui_fewshot.tests.trainers.refine.refining import PROMPTS, QUICK, Slope
from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.refine.method import Refinement, split
from comfyui_fewshot.trainers.refine.methods.table import METHODS, readers


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return base_from_path(tiny_folder(tmp_path_factory.mktemp("base"), words.build))


@pytest.mark.parametrize("method", METHODS)
def test_costs_are_those_that_the_denoiser_has(base, method):
    """A forward without gradients counts 1 a row, one with them 3."""
    wanted = dict(skip_last=1, trained_steps=3, sampling_steps=5)
    changes = {name: value for name, value in wanted.items() if method in readers(name)}
    changes = dict(trained_steps=8) | changes  # where a method does not read it, it stays at its default
    settings = replace(QUICK, method=method, resolution=32, alpha=2.0, micro_batch=16, guidance=2.0, **changes)
    counted = 0

    def count(_, given):
        nonlocal counted
        counted += len(given[0]) * (3 if torch.is_grad_enabled() else 1)

    with open_base(base, torch.device("cpu")) as model:
        handle = model.unet.register_forward_pre_hook(count)
        whole = TrainingSet((), (Concept("sks", "ball"),))
        step, injected = Refinement(None, *split(PROMPTS), Slope()).prepare(
            model, whole, settings, None, NullProgress()
        )
        for update in range(settings.updates):
            for terms in step.passes(update, SingleProcess().shard):
                del terms
        injected.remove()
        handle.remove()
    assert counted == per_round(settings)
    assert within(settings, 10 * per_round(settings)).steps == 10 * settings.updates


def test_what_is_judged_is_never_learned_and_both_forms_have_the_same_activities():
    for noun in ("cat", "boat"):
        sides = [refine.prompts(noun, 14, size.FULL.judged, mixed).prompts for mixed in (False, True)]
        judged = {ask.prompt for ask in refine.unseen_checks(noun, size.FULL.judged)}
        judged |= {prompt.replace(f"sks {noun}", noun) for prompt in judged}
        for made in sides:
            watched = [prompt for prompt in made if prompt.split == "held-out"]
            assert not judged & {prompt.text for prompt in made} and len(watched) == GUARD_PROMPTS
            assert all(set(prompt.text.split()) <= set(world.vocabulary()) for prompt in made)
        named, both = ([prompt for prompt in made if prompt.split == "train"] for made in sides)
        assert len(named) == 14 and len(both) == 28 and {p.stripped for p in named} == {p.stripped for p in both}
        worn = [any(words in prompt.text for words in world.ACCESSORIES.values()) for prompt in (*named, *watched)]
        assert all(worn) and len({prompt.text for prompt in (*named, *watched)}) == 14 + GUARD_PROMPTS
        assert sum("sks" in prompt.text for prompt in both) == 14 and all("sks" in prompt.text for prompt in named)


def test_a_baseline_gets_the_best_of_its_points_and_what_is_measured_the_worst():
    points = [(0.0, 0.9), (0.5, 0.3), (0.9, 0.5)]
    assert curves.best_at(points, 0.5) == pytest.approx(0.9 - 0.4 * 0.5 / 0.9)  # not the 0.3 that was measured there
    assert curves.best_at(points, 0.95) is None and curves.best_at(points, 0.9) == 0.5
    assert curves.worst_at(points, 0.25) == pytest.approx(0.6) and curves.worst_at(points, 0.95) is None
    assert curves.worst_at([(0.2, 1.0), (0.6, 0.2), (0.2, 0.4)], 0.4) == pytest.approx(0.3)


def test_rewards_are_read_between_readings_and_nothing_gained_is_reached_by_no_one():
    assert (
        curves.steps_to_reach({0: 0.0, 4: 1.0, 8: 2.0}, 1.5) == 6
        and curves.steps_to_reach({0: 0.0, 4: 1.0}, 3.0) is None
    )
    assert (
        curves.steps_to_reach({0: 0.0, 4: 1.0}, 0.0) is None and curves.steps_to_reach({0: 0.0, 4: 1.0}, -0.5) is None
    )
    assert curves.rises_at_the_end({0: 0.0, 1: 2.0, 2: 3.0}) and not curves.rises_at_the_end({0: 0.0, 1: 3.0, 2: 3.0})


def test_all_settings_of_the_bench_are_known_and_spend_their_budget():
    bench = refine.RefinementBenchmark(None)
    for method in METHODS:
        settings = methods.settings_of(bench, method)
        spent = settings.steps // settings.updates * per_round(settings)
        assert 0.8 * size.FULL.budgets.method <= spent <= size.FULL.budgets.method
        half = methods.half_as_long(settings)  # which ends at one of the whole one's readings
        assert half.steps % (settings.updates * settings.guard_every) == 0 and 0.3 < half.steps / settings.steps <= 0.5
        assert 4 <= settings.steps // settings.updates // settings.guard_every <= 7
    assert DdpoSettings().evaluations == 32 * 2 * (50 + 3 * 49)


ROWS = (
    "refined.prompt_gain", "refined.subject_share", "refined.over_auto", "refined.over_strength",
    "idmix.samples_ratio",
    "ddpo_baseline.evaluations_ratio", "ddpo_baseline.speed_ratio",
    *(f"method.{name}.{kind}" for name in METHODS for kind in ("reward", "judge")), "method.default_lead",
    *(f"refined.oracle.{name}" for name in ("refined", "start", "described", "gain")),
)  # fmt: skip
SMALL = replace(
    size.QUICK,
    steps=2,
    judged=2,
    activities=2,
    few_activities=2,
    oracle_prompts=4,
    budgets=EvaluationBudgets(headline=1, id_mix=1, method=1, reward=1),
)


def test_every_part_gives_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "STEPS", 2)
    monkeypatch.setattr(workshop.Workshop, "with_priors", lambda self, pictures: pictures)
    for module in (refine, ddpo_comparison, methods, oracle):
        monkeypatch.setattr(module, "each", lambda call, items: [call(item) for item in items])
    parts = parts_of(refine.RefinementBenchmark(workshop.Workshop(0, tmp_path), SMALL))
    found = [row for part in parts.values() for row in part()]
    assert tuple(row.name for row in found) == ROWS
    by_name = {row.name: row for row in found}
    assert all(row.goal is None for row in found)
    assert by_name["ddpo_baseline.speed_ratio"].value > 0 and "learning rate is 0.001" in by_name[ROWS[5]].note
    assert by_name["idmix.samples_ratio"].better == by_name[ROWS[5]].better == "lower"
    assert "the default is nft" in by_name["method.default_lead"].note
    assert "at its own learning rate" in by_name["method.nft.reward"].note and "at thrice" in by_name[ROWS[7]].note


def test_a_true_reward_is_of_what_is_drawn_and_no_judged_prompt_is_learned(tmp_path):
    run = SubjectRun("cat_striped", 0)
    checks = oracle.learned_checks(run.noun, 24, 36)
    prompts = [check.prompt for check in checks]
    assert len(set(prompts)) == 36 and not set(prompts) & {check.prompt for check in refine.unseen_checks(run.noun, 24)}
    assert {check.layout is None for check in checks} == {True, False} and any(check.accessory for check in checks)
    rewards = oracle.TrueRewards(run, checks, workshop.Workshop(0, tmp_path))
    bare = next(check for check in checks if check.accessory is None and check.layout is None)
    subject, place = subject_named(run.subject).thing, bare.place
    elsewhere = next(other for other in world.PLACES if other != place)
    other = replace(subject, colours=("red", "green"))
    assert place is not None
    drawn = [(subject, place), (subject, elsewhere), (other, place), (other, elsewhere)]
    rng = world.rng_of(7, 7)
    images = [drawing.render(world.arrange(rng, (thing,), there, "one"))[0] for thing, there in drawn]
    asked = [Prompt(bare.prompt, bare.prompt, "train")] * 4
    assert rewards.open("cpu", ()).scores(images, asked).tolist() == [[2.0, 1.0, 1.0, 0.0]]
