"""Train Subject without settings against plain DreamBooth, against every preset, and against what the base can draw.

A sample counts when it shows the subject and all else that the prompt asks for. Recipes are compared at one number of
steps, on subjects that no default was chosen by (`world.REPORTED_SUBJECTS`); `recipes` are the candidates, on those by
which the default is chosen. The ceiling is the base told the subject's looks in words that it knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from ...pocket.world import pictures, world
from ...trainers.subject.presets import PRESETS
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import disagreement_note, gain, share
from .checkpoint_choice import kind_of, row_name, settings_of
from .sets import PromptCheck, prompt_checks
from .training_cases import PLAIN, Fidelities, SubjectRun, TrainingCase, judge_fidelities

if TYPE_CHECKING:
    from .bench import SubjectBenchmark

PROMPTS = 24
HALF = 50.0
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "plain": PLAIN,
    "text_encoder": {**PLAIN, "text_encoder": True},
    "word": {**PLAIN, "token": "free"},
    "word_text_encoder": {**PLAIN, "token": "free", "text_encoder": True},
    "word_masks": {**PLAIN, "token": "free", "local_weight": 0.05},
    "word_text_encoder_masks": {**PLAIN, "token": "free", "text_encoder": True, "local_weight": 0.05},
}


def runs_of(bench: SubjectBenchmark, subjects: Sequence[world.Subject]) -> list[SubjectRun]:
    """Each subject once; a quick bench has the first alone."""
    return [SubjectRun(subject.name, 0) for subject in subjects[: 1 if bench.quick else None]]


def checks_of(run: SubjectRun, trigger: str = "sks") -> tuple[PromptCheck, ...]:
    return prompt_checks(run.noun, f"{trigger} {run.noun}", count=PROMPTS)


def recipe_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """`recipe.NAME.both`, `.subject`, `.prompt` of every candidate, on the subjects that the default is chosen by."""
    runs = runs_of(bench, world.TUNING_SUBJECTS)
    cases = [TrainingCase(run, "anywhere", checks_of(run), how) for how in RECIPES.values() for run in runs]
    judged = iter(bench.judge_cases(cases))
    rows = []
    for name in RECIPES:
        results = [next(judged) for _ in runs]
        note = disagreement_note(one.doubts for one in results)
        rows += [
            share(f"recipe.{name}.{kind}", *bench.flatten(results, kind), note=note)
            for kind in ("both", "subject", "prompt")
        ]
    return rows


def default_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """`default.room`: the share of the room between plain DreamBooth and the ceiling that the default takes."""
    runs = runs_of(bench, world.REPORTED_SUBJECTS)
    cases = [TrainingCase(run, "anywhere", checks_of(run), how) for how in ({}, PLAIN) for run in runs]
    judged = bench.judge_cases(cases)
    ours, plain = judged[: len(runs)], judged[len(runs) :]
    described = each(partial(_described, bench), runs)
    sides = {"default": ours, "plain": plain, "described": described}
    rows = [
        share(f"default.{name}.{kind}", *bench.flatten(results, kind))
        for name, results in sides.items()
        for kind in ("both", "subject", "prompt")
    ]
    (after, groups), (before, _) = (bench.flatten(side, "both") for side in (ours, plain))
    floor, ceiling = mean(before), mean(bench.flatten(described, "both")[0])
    gained = gain("default.gain", after, before, groups, bench.goal(0.0))
    return [*rows, gained, *_room(mean(after), floor, ceiling, len(runs), bench.goal(HALF))]


def _room(ours: float, floor: float, ceiling: float, runs: int, goal: float | None) -> list[BenchmarkRow]:
    """The share of the room in percent; no row where the ceiling does not lie above the floor."""
    if ceiling <= floor:
        return []
    note = f"{runs} subjects, floor {floor:.1%}, ceiling {ceiling:.1%}"
    taken = 100 * (ours - floor) / (ceiling - floor)
    return [BenchmarkRow("default.room", taken, "%", "higher", goal, note=note)]


def _described(bench: SubjectBenchmark, run: SubjectRun) -> Fidelities:
    """The base alone, told the subject's looks in words."""
    return judge_fidelities(bench.shop, run, None, checks_of(run, pictures.subject_named(run.subject).description))


def lead_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """`default_lead.PRESET`: the default less each preset, with the pictures that the preset is made for."""
    runs = runs_of(bench, world.REPORTED_SUBJECTS)
    sides = {"default": ("anywhere", {}), **{name: (kind_of(name), settings_of(name)) for name in PRESETS}}
    cases = [TrainingCase(run, kind, checks_of(run), how) for kind, how in sides.values() for run in runs]
    judged = bench.judge_cases(cases)
    by_side = {name: judged[i * len(runs) : (i + 1) * len(runs)] for i, name in enumerate(sides)}
    ours, groups = bench.flatten(by_side.pop("default"), "both")
    return [
        gain(f"default_lead.{row_name(name)}", ours, bench.flatten(results, "both")[0], groups)
        for name, results in by_side.items()
    ]
