"""Rows of what chooses: the step that validation chose against the best fixed one, and every preset.

The pocket's CLIP chooses; the scene readers, which it never saw, judge.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..evaluation.metrics import bootstrap_interval
from ..models.formats import read_lora
from ..models.values import Adapter, TrainingSet
from ..pocket.assemble import WEIGHTS
from ..trainers.presets import PRESETS, with_preset
from ..trainers.runs import Run as Folder
from ..trainers.settings import SubjectSettings
from ..trainers.subject import train_subject
from ..trainers.validation import Validator
from . import Row
from ._subject_sets import asks, pasted, references, together

if TYPE_CHECKING:
    from .subject import Bench, Run

log = logging.getLogger(__name__)

STEPS, POINTS = 600, 6
"""long enough to pass the best step, and looked at so often"""
GOAL = 3.0
SECOND = {"cat_striped": "car_patched"}
"""the subject that joins another where a preset teaches several"""


def auto_gap(bench: Bench) -> list[Row]:
    """How many points the chosen steps lie behind the best step count that is the same for all subjects.

    A step's points are the mean of both fidelities. The best fixed count is found on the judged samples themselves,
    which no one who trains could do.
    """
    tables, chosen = [], []
    for run in bench.one_each:
        points, step = judged_steps(bench, run)
        tables.append(points)
        chosen.append(step)
        log.info("auto.gap: %s: step %d of %s", run.subject, step, {s: round(v, 3) for s, v in points.items()})
    gaps = gaps_of(tables, chosen)
    found = bootstrap_interval([100 * gap for gap in gaps])
    ends = None if found.low is None or found.high is None else (found.low, found.high)
    return [Row("auto.gap", found.mean, "points", "lower", bench.goal(GOAL), ends, found.n)]


def gaps_of(tables: Sequence[Mapping[int, float]], chosen: Sequence[int]) -> list[float]:
    """By run, the value at the one step that is best for the mean over all, minus the value at the chosen step."""
    shared = set.intersection(*(set(table) for table in tables))
    best = max(sorted(shared), key=lambda step: sum(table[step] for table in tables))
    return [table[best] - table[step] for table, step in zip(tables, chosen, strict=True)]


def judged_steps(bench: Bench, run: Run) -> tuple[dict[int, float], int]:
    """The mean of both fidelities after each validated step, and the step that validation chose."""
    shop, steps = bench.shop, bench.shop.steps or STEPS
    settings = SubjectSettings(
        steps=steps, seed=run.seed, validate_every=-(-steps // POINTS), keep_validated=True, parameter_set="attention"
    )
    pictures = shop.with_priors(references(shop.sets, run.subject))
    result = train_subject(
        shop.base, pictures, settings, shop.folder / "chosen", shop.device, name="bench",
        validator=Validator(WEIGHTS / "clip"),
    )  # fmt: skip
    assert result.validation is not None
    wanted, points = asks(run.noun, f"sks {run.noun}"), {}
    for point in result.validation.points[1:]:
        adapter = read_lora(Folder(result.folder, "").validated(point.step))
        both = bench.fidelities(run, adapter, wanted)
        points[point.step] = sum(sum(values) / len(values) for values in both) / 2
    return points, result.chosen


# -------------------------------------------------------------------------------------------------------- presets


def presets(bench: Bench) -> list[Row]:
    """Both fidelities of every preset, each with the pictures that it is made for."""
    rows = []
    for name in PRESETS:
        title = f"preset.{name.lower().replace(' ', '_').replace('-', '_')}"
        rows += bench.both_rows(title, bench.table_runs, _teacher(bench, name))
    return rows


def _teacher(bench: Bench, name: str) -> Callable[[Run], Adapter]:
    settings = with_preset(name, {})

    def teach(run: Run) -> Adapter:
        pictures = taught_set(bench, run, name)
        if settings["prior_weight"]:
            pictures = bench.shop.with_priors(pictures)
        return bench.shop.train(pictures, seed=run.seed, **settings)

    return teach


def taught_set(bench: Bench, run: Run, name: str) -> TrainingSet:
    """References; pasted ones too where attention is tied to masks; a second subject where several are taught."""
    one = references(bench.shop.sets, run.subject)
    if name == "Multi-subject":
        other = references(bench.shop.sets, SECOND.get(run.subject, "cat_striped"), None, "zwx")
        return together(bench.shop.sets, [one, other], run.seed)
    return pasted(bench.shop.sets, one, run.seed) if PRESETS[name]["local_weight"] else one
