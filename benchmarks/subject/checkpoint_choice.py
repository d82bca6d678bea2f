"""Rows of choices: the step chosen by validation against the best fixed one, and every preset.

The pocket's CLIP validates; the scene readers, which are independent of it, judge.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.statistics import bootstrap_interval
from ...models.adapters.formats import read_lora
from ...trainers.context import TrainingContext
from ...trainers.state.run_folder import RunFolder
from ...trainers.subject.method import train_subject
from ...trainers.subject.presets import PRESETS, with_preset
from ...trainers.subject.settings import SubjectSettings
from ...trainers.validation.image_metrics import Validator
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import disagreement_note
from ..harness.workshop import Workshop
from .sets import prompt_checks
from .training_cases import SubjectRun, judge_fidelities, training_set

if TYPE_CHECKING:
    from .bench import SubjectBenchmark

log = logging.getLogger(__name__)

# The training is this many times the usual steps, to pass the best one, and validated so often.
LONGER, POINTS = 1.5, 8
GOAL = 3.0
Judged = tuple[dict[int, float], int, list[float]]


def auto_gap(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """How many points the chosen steps lie behind the best step count that is the same for all subjects.

    A step's points are the mean of both fidelities. The best fixed count is chosen on the judged samples themselves,
    which is an oracle.
    """
    runs = bench.first_seed_runs
    judged = each(partial(judged_steps, bench.shop), runs)
    for run, (points, step, _) in zip(runs, judged, strict=True):
        log.info("auto.gap: %s: step %d of %s", run.subject, step, {s: round(v, 3) for s, v in points.items()})
    gaps = gaps_of([points for points, _, _ in judged], [step for _, step, _ in judged])
    mean = bootstrap_interval([100 * gap for gap in gaps])
    ends = None if mean.low is None or mean.high is None else (mean.low, mean.high)
    note = disagreement_note(doubts for _, _, doubts in judged)
    return [BenchmarkRow("auto.gap", mean.mean, "points", "lower", bench.goal(GOAL), ends, mean.n, note)]


def gaps_of(tables: Sequence[Mapping[int, float]], chosen: Sequence[int]) -> list[float]:
    """By run, the value at the one step that is best for the mean over all, minus the value at the chosen step."""
    common_steps = set.intersection(*(set(table) for table in tables))
    best = max(sorted(common_steps), key=lambda step: sum(table[step] for table in tables))
    return [table[best] - table[step] for table, step in zip(tables, chosen, strict=True)]


def judged_steps(shop: Workshop, run: SubjectRun) -> Judged:
    """The mean of both fidelities after each validated step, the step that validation chose, and the disagreements.

    Without priors, since then too many steps do the most harm.
    """
    steps = round(LONGER * shop.steps)
    settings = SubjectSettings(
        steps=steps, seed=run.seed, validate_every=-(-steps // POINTS), keep_validated=True, prior_weight=0.0,
    )  # fmt: skip
    validator = Validator(shop.weights / "clip")
    context = TrainingContext(shop.folder / "chosen", shop.device, name="bench", validator=validator)
    result = train_subject(shop.base, training_set(shop, run, "anywhere"), settings, context)
    assert result.validation is not None
    checks, points, doubts = prompt_checks(run.noun, f"sks {run.noun}"), {}, []
    for point in result.validation.points[1:]:
        fidelities = judge_fidelities(shop, run, read_lora(RunFolder(result.folder, "").validated(point.step)), checks)
        points[point.step] = fidelities.point
        doubts += fidelities.doubts
    return points, result.chosen, doubts


# -------------------------------------------------------------------------------------------------------- presets


def presets(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """Both fidelities of every preset, each with the pictures that it is made for."""
    return bench.fidelity_rows("preset", {row_name(name): (kind_of(name), settings_of(name)) for name in PRESETS})


def row_name(preset: str) -> str:
    return preset.lower().replace(" ", "_").replace("-", "_")


def settings_of(preset: str) -> dict[str, Any]:
    return with_preset(preset, {})


def kind_of(preset: str) -> str:
    """References; also pasted ones with an attention loss; also a second subject for several subjects."""
    if preset == "Multi-subject":
        return "two"
    return "anywhere, pasted" if PRESETS[preset]["local_weight"] else "anywhere"
