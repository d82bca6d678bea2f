"""Rows of refinement's methods: the reward's and the judged gain for each 1,000 evaluations of the denoiser.

All are compared at equal cost on one subject and two seeds, each with its default settings: its learning rate, and
strengths of the subject below 1 where it explores. For the first seed a note gives the gain at three times that rate,
at half of the cost: rates are constant and samples depend on the round alone, so that an intermediate reading of the
longer run equals that of a shorter one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from ...trainers.refine.methods.table import DEFAULT_METHOD, METHODS
from ...trainers.refine.settings import RefinementSettings
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..subject.training_cases import SubjectRun
from .costs import per_round
from .curves import gains
from .ddpo_comparison import open_resolved
from .rows import largest_disagreement_note, mean_row

if TYPE_CHECKING:
    from .bench import RefinementBenchmark

COMMON_SETTINGS = dict(patience=0, statistics_from=12)  # no early stopping
READINGS = 4
# Other learning rates, as factors of a method's default: the factor by which nft's was raised.
RATE_FACTORS = {"thrice": 3.0}


def methods(bench: RefinementBenchmark) -> list[BenchmarkRow]:
    """The reward's gain and the judged gain of each method for its cost; and the default method's lead."""
    runs = bench.subjects.table_runs
    each(bench.prepare, runs)
    jobs = [partial(measure_method, bench, run, name) for name in METHODS for run in runs]
    factors = RATE_FACTORS.values()
    sweep_jobs = [partial(gain_at_rate, bench, runs[0], name, factor) for name in METHODS for factor in factors]
    results = each(_call, [*jobs, *sweep_jobs])
    measured, swept_gains = results[: len(jobs)], iter(results[len(jobs) :])
    rows, judged = [], {}
    for number, name in enumerate(METHODS):
        by_run = measured[number * len(runs) : (number + 1) * len(runs)]
        rates = rates_note(bench, name, by_run[0]["gains"], [next(swept_gains) for _ in factors])
        rewards, values = ([one[kind] for one in by_run] for kind in ("reward", "judge"))
        note = largest_disagreement_note(by_run)
        rows.append(mean_row(f"method.{name}.reward", rewards, "deviations / 1000", None, rates))
        rows.append(mean_row(f"method.{name}.judge", values, "points / 1000 evaluations", None, note))
        judged[name] = mean(values)
    best = max(judged, key=judged.__getitem__)
    lead = judged[DEFAULT_METHOD] - max(value for name, value in judged.items() if name != DEFAULT_METHOD)
    note = f"the default is {DEFAULT_METHOD}, the best judged is {best}"
    return [*rows, mean_row("method.default_lead", [lead], "points / 1000 evaluations", bench.goal(0), note)]


def _call(call: partial) -> Any:
    return call()


def settings_of(bench: RefinementBenchmark, name: str) -> RefinementSettings:
    """The settings of a method in the comparison."""
    return bench.settings(bench.size.budgets.method, READINGS, method=name, **COMMON_SETTINGS)


def measure_method(bench: RefinementBenchmark, run: SubjectRun, name: str) -> dict[str, Any]:
    """Gains of one method for each 1,000 evaluations, of the reward that all methods share."""
    settings = settings_of(bench, name)
    result = bench.refined(run, settings, bench.size.few_activities)
    assert result.combined is not None
    thousands = len(result.training.losses) / settings.updates * per_round(settings) / 1000
    before, after = (bench.fidelities(run, one)[1] for one in (bench.start(run), result.combined))
    curve = gains(result)
    return {
        "reward": max(curve.values()) / thousands,
        "judge": 100 * (mean(after) - mean(before)) / thousands,
        "doubt": bench.doubt(run, result.combined),
        "gains": curve,
    }


# ------------------------------------------------------------------------------------------------------------- rates


def half_as_long(settings: RefinementSettings) -> RefinementSettings:
    """About half as long, ending where the full run has a reading."""
    rounds = settings.steps // settings.updates // 2
    rounds = settings.guard_every * max(1, rounds // settings.guard_every)
    return replace(settings, steps=rounds * settings.updates)


def gain_at_rate(bench: RefinementBenchmark, run: SubjectRun, name: str, factor: float) -> float:
    """The held-out reward's gain at a multiple of the method's own learning rate, after `half_as_long` steps."""
    settings = half_as_long(settings_of(bench, name))
    with open_resolved(bench, run, settings) as (_, chosen):
        rate = chosen.learning_rate
    result = bench.refined(run, replace(settings, learning_rate=factor * rate), bench.size.few_activities)
    return gains(result)[settings.steps]


def rates_note(bench: RefinementBenchmark, name: str, own_gains: dict[float, float], swept_gains: list[float]) -> str:
    """The gains at the method's own learning rate and at others."""
    settings = half_as_long(settings_of(bench, name))
    spent = settings.steps // settings.updates * per_round(settings)
    others = ", ".join(f"{gain:+.2f} at {word} of it" for word, gain in zip(RATE_FACTORS, swept_gains, strict=True))
    return f"deviations after {spent} evaluations: {own_gains[settings.steps]:+.2f} at its own learning rate, {others}"
