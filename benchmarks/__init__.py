"""Benches: `run.py bench NAME` measures the parts of the module NAME here, prints a table and writes it as JSON.

A new bench is one file in this folder, or `parts.py` in a folder of its name, with a function `parts(quick: bool)`
that gives functions by names, each of which measures some rows; one that has a single part may have `rows(quick) ->
list[Row]` instead. A trailing underscore of the file's name is not part of the bench's name (`import_.py` is the bench
`import`); files that begin with one help others.
"""

from __future__ import annotations

import importlib
import json
import logging
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

log = logging.getLogger(__name__)

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One measured number. `goal` is what it shall reach, `interval` its 95 % interval, `n` the number of runs.

    `note` is what a reader has to know beside it, for instance that the judges often disagree.
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


def names() -> list[str]:
    """The benches there are."""
    files = [file.stem.rstrip("_") for file in HERE.glob("*.py") if not file.stem.startswith("_")]
    return sorted([*files, *(file.parent.name for file in HERE.glob("*/parts.py"))])


def file_of(name: str) -> Path:
    """The file of the bench: a module of its name, or `parts.py` in a folder of its name."""
    places = (HERE / name / "parts.py", HERE / f"{name}.py", HERE / f"{name}_.py")
    return next(place for place in places if place.is_file())


def module_of(name: str) -> ModuleType:
    """The module of the bench."""
    return importlib.import_module(".".join((__name__, *file_of(name).relative_to(HERE).with_suffix("").parts)))


Parts = Mapping[str, Callable[[], list[Row]]]


def parts_of(name: str, quick: bool, only: Sequence[str] = ()) -> Parts:
    """What the bench measures, or `only` some of it. Raises ValueError for an unknown name, listing those there are."""
    if name not in names():
        raise ValueError(f"there is no bench {name!r}; there are {', '.join(names())}")
    module = module_of(name)
    parts = module.parts(quick) if hasattr(module, "parts") else {name: lambda: module.rows(quick)}
    if unknown := [part for part in only if part not in parts]:
        raise ValueError(f"the bench {name!r} has no part {unknown[0]!r}; it has {', '.join(parts)}")
    return {part: call for part, call in parts.items() if not only or part in only}


def measured(name: str, quick: bool, only: Sequence[str] = ()) -> Iterator[list[Row]]:
    """The rows of one part of a bench after the other, or of the parts `only`. A part that fails is named in the log.

    Raises ValueError for an unknown part, and RuntimeError at the end where nothing at all could be measured.
    """
    chosen = parts_of(name, quick, only)
    failed = []
    for part, call in chosen.items():
        try:
            found = call()
        except Exception as error:
            log.exception("the part %r of the bench %r failed", part, name)
            failed.append((part, error))
            continue
        log.info("%s: %s", part, "; ".join(f"{row.name} {row.value:.3g}" for row in found))
        yield found
    if failed and len(failed) == len(chosen):
        raise RuntimeError(f"no part of the bench {name!r} could be measured") from failed[0][1]


def measure(name: str, quick: bool, only: Sequence[str] = ()) -> list[Row]:
    """All rows of a bench, or of the parts `only`."""
    return [row for found in measured(name, quick, only) for row in found]


def median_interval(values: Sequence[float], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    rng = random.Random(seed)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return medians[int(0.025 * draws)], medians[int(0.975 * draws)]


def table(rows: Sequence[Row]) -> str:
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


def write(rows: Sequence[Row], file: Path) -> None:
    """The rows as a JSON list of objects; a note stands in those that have one."""
    told = [asdict(row) for row in rows]
    for row in told:
        if not row["note"]:
            del row["note"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
