"""Rows of the bench of refinement: means with their remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.statistics import bootstrap_interval
from ..harness.rows import BenchmarkRow
from ..harness.statistics import row

NEVER = 2.0
"""the ratio that stands for "never within what was spent" """


def told(found: Sequence[Mapping[str, Any]], first: str = "") -> str:
    """A note with the judges' disagreement where that is more than 5 %."""
    doubt = max(one["doubt"] for one in found)
    return "; ".join([*filter(None, [first]), *([f"the judges differ on up to {doubt:.0%}"] if doubt > 0.05 else [])])


def measured(
    name: str, values: Sequence[float], unit: str, goal: float | None, note: str = "", scale: float = 1.0
) -> BenchmarkRow:
    """A row of a mean; without any value NaN, which meets no goal."""
    if not values:
        return BenchmarkRow(name, float("nan"), unit, "higher", goal, None, 0, note)
    return replace(row(name, bootstrap_interval(values), unit, goal, scale), note=note)


def lower(found: BenchmarkRow) -> BenchmarkRow:
    return replace(found, better="lower")
