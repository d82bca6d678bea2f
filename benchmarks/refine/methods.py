"""Rows of refinement's methods: what each earns, and shows, for each 1,000 evaluations of the denoiser.

All are compared at one cost on one subject and two seeds, each with the settings that it takes by itself: its learning
rate, and strengths of the subject below 1 where it explores. Of the first seed it is told how thrice that rate does, at
half of the cost: rates are constant and what is drawn depends on the round alone, so that a reading on the way of the
longer run is that of a shorter one.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

from ...trainers.refine.settings import DEFAULT_METHOD, METHODS, RefinementSettings
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..subject.lessons import Run
from .costs import per_round
from .curves import gains
from .ddpo_comparison import opened
from .rows import measured, told

if TYPE_CHECKING:
    from .bench import Bench

COMPARED = dict(patience=0, statistics_from=12)
"""no early end"""
READINGS = 4
SWEPT = {"thrice": 3.0}
"""other learning rates, as shares of a method's own: what nft was raised by"""


def methods(bench: Bench) -> list[BenchmarkRow]:
    """The reward's gain and the judged gain of each method for what it spent; and the default among them."""
    runs = bench.subjects.table_runs
    each(bench.prepare, runs)
    whole = [partial(method, bench, run, name) for name in METHODS for run in runs]
    parts = [partial(swept, bench, runs[0], name, share) for name in METHODS for share in SWEPT.values()]
    done = each(_called, [*whole, *parts])
    found, tried = done[: len(whole)], iter(done[len(whole) :])
    rows, judged = [], {}
    for number, name in enumerate(METHODS):
        own = found[number * len(runs) : (number + 1) * len(runs)]
        rates = rates_told(bench, name, own[0]["gains"], [next(tried) for _ in SWEPT])
        rewards, values = ([one[kind] for one in own] for kind in ("reward", "judge"))
        rows.append(measured(f"method.{name}.reward", rewards, "deviations / 1000", None, rates))
        rows.append(measured(f"method.{name}.judge", values, "points / 1000 evaluations", None, told(own)))
        judged[name] = mean(values)
    best = max(judged, key=judged.__getitem__)
    lead = judged[DEFAULT_METHOD] - max(value for name, value in judged.items() if name != DEFAULT_METHOD)
    note = f"the default is {DEFAULT_METHOD}, the best judged is {best}"
    return [*rows, measured("method.default_lead", [lead], "points / 1000 evaluations", bench.goal(0), note)]


def _called(call: partial) -> Any:
    return call()


def settings_of(bench: Bench, name: str) -> RefinementSettings:
    """Those that a method is compared with."""
    return bench.settings(bench.size.method_budget, READINGS, method=name, **COMPARED)


def method(bench: Bench, run: Run, name: str) -> dict[str, Any]:
    """Gains of one method for each 1,000 evaluations that were spent: of the reward that all methods are given."""
    settings = settings_of(bench, name)
    result = bench.refined(run, settings, bench.size.few)
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


def shorter(settings: RefinementSettings) -> RefinementSettings:
    """About half as long, ending where the whole one has a reading."""
    rounds = settings.steps // settings.updates // 2
    rounds = settings.guard_every * max(1, rounds // settings.guard_every)
    return replace(settings, steps=rounds * settings.updates)


def swept(bench: Bench, run: Run, name: str, share: float) -> float:
    """The held-out reward's gain at a share of the method's own learning rate, after `shorter` steps."""
    settings = shorter(settings_of(bench, name))
    with opened(bench, run, settings) as (_, chosen):
        rate = chosen.learning_rate
    return gains(bench.refined(run, replace(settings, learning_rate=share * rate), bench.size.few))[settings.steps]


def rates_told(bench: Bench, name: str, own: dict[float, float], tried: list[float]) -> str:
    """How the method's own learning rate did beside others."""
    settings = shorter(settings_of(bench, name))
    spent = settings.steps // settings.updates * per_round(settings)
    others = ", ".join(f"{gain:+.2f} at {word} of it" for word, gain in zip(SWEPT, tried, strict=True))
    return f"deviations after {spent} evaluations: {own[settings.steps]:+.2f} at its own learning rate, {others}"
