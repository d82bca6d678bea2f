"""What was measured, and the rows that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.statistics import Interval, bootstrap_interval, paired_interval
from ..harness.rows import BenchmarkRow
from .sides import BASE, OURS, PLAIN, REFINED, SIDES

FEWEST_CLUSTERS = 8  # subjects below which no interval is given
DIFFERENCES = ((OURS, PLAIN), (REFINED, OURS), (REFINED, PLAIN))


@dataclass
class SubjectResult:
    """Of one subject: scores by side and metric, seed by seed, prompt by prompt, picture by picture; the files of the
    pictures of the first seed, and why a side is not there."""

    name: str
    noun: str
    live: bool
    pictures: int
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    real: dict[str, float] = field(default_factory=dict)
    steps: dict[str, list[int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict, repr=False)
    references: list[Path] = field(default_factory=list, repr=False)

    def add(self, side: str, values: Mapping[str, Sequence[float]]) -> None:
        """The scores of one seed."""
        for metric, scores in values.items():
            self.scores.setdefault(side, {}).setdefault(metric, []).extend(scores)


@dataclass(frozen=True)
class Results:
    """Of all subjects that are done."""

    subjects: Sequence[SubjectResult]
    metrics: Sequence[str]
    cautions: Mapping[str, str]

    def rows(self) -> list[BenchmarkRow]:
        """A row a side and metric, the real pictures', and the paired differences of sides."""
        found = [row for metric in self.metrics for side in (BASE, *SIDES) for row in self._side(side, metric)]
        found += [row for metric in self.metrics for row in self._real(metric)]
        pairs = [(metric, pair) for metric in self.metrics for pair in DIFFERENCES]
        return found + [row for metric, pair in pairs for row in self._difference(metric, *pair)]

    def having(self, *sides: str) -> list[SubjectResult]:
        """The subjects with all of these sides."""
        return [subject for subject in self.subjects if all(side in subject.scores for side in sides)]

    def _side(self, side: str, metric: str) -> list[BenchmarkRow]:
        known = self.having(side)
        values = [value for subject in known for value in subject.scores[side][metric]]
        groups = [subject.name for subject in known for _ in subject.scores[side][metric]]
        note = self.cautions.get(metric, "") if side in (OURS, REFINED) else ""
        return [_row(f"{side}.{metric}", bootstrap_interval(values, groups), "", note)] if values else []

    def _real(self, metric: str) -> list[BenchmarkRow]:
        known = [subject.real[metric] for subject in self.subjects if metric in subject.real]
        note = "real pictures among themselves: the ceiling"
        return [_row(f"real.{metric}", bootstrap_interval(known), "", note)] if known else []

    def _difference(self, metric: str, after: str, before: str) -> list[BenchmarkRow]:
        known = self.having(after, before)
        sides = [[value for subject in known for value in subject.scores[side][metric]] for side in (after, before)]
        groups = [subject.name for subject in known for _ in subject.scores[after][metric]]
        name, note = f"{after}_over_{before}.{metric}", self.cautions.get(metric, "")
        return [_row(name, paired_interval(*sides, groups), "difference", note)] if groups else []


def _row(name: str, interval: Interval, unit: str, note: str) -> BenchmarkRow:
    """A row of a mean over subjects; its interval where there are enough of them for one."""
    ends = None if interval.low is None or interval.high is None else (interval.low, interval.high)
    enough = interval.n >= FEWEST_CLUSTERS
    return BenchmarkRow(name, interval.mean, unit, "higher", None, ends if enough else None, interval.n, note)
