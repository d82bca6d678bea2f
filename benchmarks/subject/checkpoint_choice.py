"""Rows of what chooses: the step that validation chose against the best fixed one, and every preset.

The pocket's CLIP chooses; the scene readers, which it never saw, judge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.settings import SubjectSettings
from ...core.statistics import bootstrap_interval
from ...models.adapters.formats import read_lora
from ...trainers.state.run_folder import RunFolder
from ...trainers.subject.method import train_subject
from ...trainers.subject.presets import PRESETS, with_preset
from ...trainers.validation.image_metrics import Validator
from .. import Row
from ..harness.parallel import each
from ..harness.statistics import doubted
from ..harness.workshop import Workshop
from .lessons import Run, shown, taught_set
from .sets import asks

if TYPE_CHECKING:
    from .bench import Bench

log = logging.getLogger(__name__)

LONGER, POINTS = 1.5, 8
"""than the usual steps, to pass the best one, and looked at so often"""
GOAL = 3.0
Judged = tuple[dict[int, float], int, list[float]]


def auto_gap(bench: Bench) -> list[Row]:
    """How many points the chosen steps lie behind the best step count that is the same for all subjects.

    A step's points are the mean of both fidelities. The best fixed count is found on the judged samples themselves,
    which no one who trains could do.
    """
    runs = bench.one_each
    found = each(partial(judged_steps, bench.shop), runs)
    for run, (points, step, _) in zip(runs, found, strict=True):
        log.info("auto.gap: %s: step %d of %s", run.subject, step, {s: round(v, 3) for s, v in points.items()})
    gaps = gaps_of([points for points, _, _ in found], [step for _, step, _ in found])
    mean = bootstrap_interval([100 * gap for gap in gaps])
    ends = None if mean.low is None or mean.high is None else (mean.low, mean.high)
    note = doubted(doubts for _, _, doubts in found)
    return [Row("auto.gap", mean.mean, "points", "lower", bench.goal(GOAL), ends, mean.n, note)]


def gaps_of(tables: Sequence[Mapping[int, float]], chosen: Sequence[int]) -> list[float]:
    """By run, the value at the one step that is best for the mean over all, minus the value at the chosen step."""
    shared = set.intersection(*(set(table) for table in tables))
    best = max(sorted(shared), key=lambda step: sum(table[step] for table in tables))
    return [table[best] - table[step] for table, step in zip(tables, chosen, strict=True)]


def judged_steps(shop: Workshop, run: Run) -> Judged:
    """The mean of both fidelities after each validated step, the step that validation chose, and the judges' doubts.

    Without priors, since then too many steps do the most harm.
    """
    steps = round(LONGER * shop.steps)
    settings = SubjectSettings(
        steps=steps, seed=run.seed, validate_every=-(-steps // POINTS), keep_validated=True, prior_weight=0.0,
    )  # fmt: skip
    result = train_subject(
        shop.base, taught_set(shop, run, "anywhere"), settings, shop.folder / "chosen", shop.device, name="bench",
        validator=Validator(shop.weights / "clip"),
    )  # fmt: skip
    assert result.validation is not None
    wanted, points, doubts = asks(run.noun, f"sks {run.noun}"), {}, []
    for point in result.validation.points[1:]:
        seen = shown(shop, run, read_lora(RunFolder(result.folder, "").validated(point.step)), wanted)
        points[point.step] = seen.point
        doubts += seen.doubts
    return points, result.chosen, doubts


# -------------------------------------------------------------------------------------------------------- presets


def presets(bench: Bench) -> list[Row]:
    """Both fidelities of every preset, each with the pictures that it is made for."""
    return bench.both_rows("preset", {row_name(name): (kind_of(name), settings_of(name)) for name in PRESETS})


def row_name(preset: str) -> str:
    return preset.lower().replace(" ", "_").replace("-", "_")


def settings_of(preset: str) -> dict[str, Any]:
    return with_preset(preset, {})


def kind_of(preset: str) -> str:
    """References; pasted ones too where attention is tied to masks; a second subject where several are taught."""
    if preset == "Multi-subject":
        return "two"
    return "anywhere, pasted" if PRESETS[preset]["local_weight"] else "anywhere"
