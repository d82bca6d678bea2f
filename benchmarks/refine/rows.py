"""Rows of the refinement bench: means with their notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.statistics import bootstrap_interval
from ..harness.rows import BenchmarkRow
from ..harness.statistics import row

NEVER = 2.0  # the ratio that stands for "not reached within the budget"


def largest_disagreement_note(runs: Sequence[Mapping[str, Any]], first: str = "") -> str:
    """A note with the judges' disagreement where that is more than 5 %."""
    doubt = max(run["doubt"] for run in runs)
    return "; ".join([*filter(None, [first]), *([f"the judges differ on up to {doubt:.0%}"] if doubt > 0.05 else [])])


def mean_row(
    name: str, values: Sequence[float], unit: str, goal: float | None, note: str = "", scale: float = 1.0
) -> BenchmarkRow:
    """A row of a mean; without any value NaN, which meets no goal."""
    if not values:
        return BenchmarkRow(name, float("nan"), unit, "higher", goal, None, 0, note)
    return replace(row(name, bootstrap_interval(values), unit, goal, scale), note=note)


def lower_is_better(row: BenchmarkRow) -> BenchmarkRow:
    return replace(row, better="lower")
