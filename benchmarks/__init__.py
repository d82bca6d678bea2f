"""Benches: `run.py bench NAME` runs `rows(quick)` of the module NAME here, prints its table and writes it as JSON.

A new bench is one file in this folder with a function `rows(quick: bool) -> list[Row]`. A trailing underscore of the
file's name is not part of the bench's name (`import_.py` is the bench `import`); files that begin with one help others.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One measured number. `goal` is what it shall reach, `interval` its 95 % interval, `n` the number of runs."""

    name: str
    value: float
    unit: str
    better: Literal["lower", "higher"]
    goal: float | None = None
    interval: tuple[float, float] | None = None
    n: int = 1

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal.

        A gain in points reaches it when the value does and the interval lies above zero; a goal below zero ("not
        lower") is reached when the whole interval lies above it.
        """
        if self.goal is None:
            return None
        if self.unit == "points" and self.interval is not None:
            return self.interval[0] > min(self.goal, 0) and (self.goal < 0 or self.value >= self.goal)
        return self.value <= self.goal if self.better == "lower" else self.value >= self.goal


def names() -> list[str]:
    """The benches there are."""
    return sorted(file.stem.rstrip("_") for file in HERE.glob("*.py") if not file.stem.startswith("_"))


def measure(name: str, quick: bool) -> list[Row]:
    """Run one bench. Raises ValueError for an unknown name, listing those there are."""
    if name not in names():
        raise ValueError(f"there is no bench {name!r}; there are {', '.join(names())}")
    module = name if (HERE / f"{name}.py").is_file() else name + "_"
    return list(importlib.import_module(f"{__name__}.{module}").rows(quick))


def median_interval(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    lines = [("row", "value", "unit", "better", "goal", "interval", "n", "")]
    for row in rows:
        interval = "" if row.interval is None else f"{row.interval[0]:.4g} .. {row.interval[1]:.4g}"
        goal = "" if row.goal is None else f"{row.goal:.4g}"
        verdict = {None: "", True: "met", False: "not met"}[row.met]
        lines.append((row.name, f"{row.value:.4g}", row.unit, row.better, goal, interval, str(row.n), verdict))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def write(rows: Sequence[Row], file: Path) -> None:
    """The rows as a JSON list of objects."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
