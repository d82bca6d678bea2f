"""Rows of readings: shares, paired gains and ratios, with intervals over runs and the judges' disagreement."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence

from ...core.statistics import Interval, bootstrap_interval, paired_interval
from .rows import BenchmarkRow

DOUBTFUL = 0.05  # share of the samples on which the judges may disagree without a note


def row(
    name: str, interval: Interval, unit: str, goal: float | None = None, scale: float = 1.0, note: str = ""
) -> BenchmarkRow:
    """A row of a mean, higher being better."""
    ends = None if interval.low is None or interval.high is None else (scale * interval.low, scale * interval.high)
    return BenchmarkRow(name, scale * interval.mean, unit, "higher", goal, ends, interval.n, note)


def share(
    name: str, values: Sequence[float], groups: Sequence[object], goal: float | None = None, note: str = ""
) -> BenchmarkRow:
    """A share in percent, its interval over runs."""
    return row(name, bootstrap_interval(values, groups), "%", goal, 100, note)


def gain(
    name: str,
    after: Sequence[float],
    before: Sequence[float],
    groups: Sequence[object],
    goal: float | None = None,
    note: str = "",
) -> BenchmarkRow:
    """A difference in points, paired by prompt and seed, its interval over runs."""
    return row(name, paired_interval(after, before, groups), "points", goal, 100, note)


def ratio(
    name: str, above: Sequence[float], below: Sequence[float], goal: float | None = None, note: str = ""
) -> BenchmarkRow:
    """The mean of `above` over that of `below`, run by run paired in the bootstrap; lower is better."""
    rng, drawn = random.Random(0), []
    for _ in range(2000):
        picked = [rng.randrange(len(above)) for _ in above]
        drawn.append(_over(sum(above[i] for i in picked), sum(below[i] for i in picked)))
    drawn.sort()
    ends = (drawn[50], drawn[1949]) if len(above) > 1 else None
    return BenchmarkRow(name, _over(sum(above), sum(below)), "ratio", "lower", goal, ends, len(above), note)


def _over(above: float, below: float) -> float:
    """Without drift even without priors the ratio is 1: priors changed nothing."""
    return above / below if below else 1.0 + above


def disagreement_note(doubts: Iterable[Sequence[float]]) -> str:
    """The note of a row on whose samples the two judges disagree too often; "" for all others."""
    flat = [one for some in doubts for one in some]
    part = sum(flat) / len(flat) if flat else 0.0
    return f"the judges disagree on {part:.0%} of the samples" if part > DOUBTFUL else ""


def median_interval(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]
