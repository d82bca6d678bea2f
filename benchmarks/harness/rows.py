"""Rows of a bench: one measured number each, printed as a table and written as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class BenchmarkRow:
    """One measured number. `goal` is its target, `interval` its 95 % interval, `n` the number of runs.

    `note` qualifies it, for instance that the judges often disagree.
    """

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    goal: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal.

        A gain in points reaches it when the value does and the interval lies above zero; a goal below zero ("not
        lower") is reached when the whole interval lies above it.
        """
        if self.goal is None:
            return None
        if self.unit == "points" and self.better == "higher" and self.interval is not None:
            return self.interval[0] > min(self.goal, 0) and (self.goal < 0 or self.value >= self.goal)
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


Parts = Mapping[str, Callable[[], list[BenchmarkRow]]]


def format_table(rows: Sequence[BenchmarkRow]) -> str:
    """The rows as aligned text."""
    lines = [("row", "value", "unit", "better", "goal", "interval", "n", "", "")]
    for row in rows:
        interval = "" if row.interval is None else f"{row.interval[0]:.4g} .. {row.interval[1]:.4g}"
        goal = "" if row.goal is None else f"{row.goal:.4g}"
        verdict = {None: "", True: "met", False: "not met"}[row.met]
        lines.append(
            (row.name, f"{row.value:.4g}", row.unit, row.better, goal, interval, str(row.n), verdict, row.note)
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def write_rows(rows: Sequence[BenchmarkRow], file: Path) -> None:
    """The rows as a JSON list of objects; only those with a note have the key "note"."""
    records = [asdict(row) for row in rows]
    for row in records:
        if not row["note"]:
            del row["note"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
