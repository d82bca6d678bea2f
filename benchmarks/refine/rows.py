"""Rows of the bench of refinement: means with their remarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...core.statistics import bootstrap_interval
from .. import Row
from ..harness.statistics import row

NEVER = 2.0
"""the ratio that stands for "never within what was spent" """


def told(found: Sequence[Mapping[str, Any]], first: str = "") -> str:
    """A note with the judges' disagreement where that is more than 5 %."""
    doubt = max(one["doubt"] for one in found)
    return "; ".join([*filter(None, [first]), *([f"the judges differ on up to {doubt:.0%}"] if doubt > 0.05 else [])])


def measured(
    name: str, values: Sequence[float], unit: str, goal: float | None, note: str = "", scale: float = 1.0
) -> Row:
    """A row of a mean; without any value NaN, which meets no goal."""
    if not values:
        return Row(name, float("nan"), unit, "higher", goal, None, 0, note)
    return replace(row(name, bootstrap_interval(values), unit, goal, scale), note=note)


def lower(found: Row) -> Row:
    return replace(found, better="lower")
