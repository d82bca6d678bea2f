"""What a measurement says of a subject's training: one finding, what it rests on, and what to change.

Nothing here is an absolute cosine, which differs from one CLIP to the next. Likeness gained is a share of the room
between the base and the references among themselves, prompt following kept a share of the base's own; and a difference
counts only beyond two standard errors of the paired difference over prompts.

    likeness gained  f = mean(subject - floor's subject) / (ceiling - mean floor's subject)
    prompts kept     p = mean(prompt - unrelated) / mean(floor's prompt - floor's unrelated)
    sameness         v = mean(alike - floor's alike) / (ceiling - mean floor's alike)

p is 1 for the base and 0 for pictures that fit the others' prompts as well as their own. v is 1 where pictures of
different prompts are as like each other as the references are, which show one thing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..selection import Anchors, Point
from .measure import ColumnScores, Measurement

LITTLE = 0.15
"""of the room for likeness: less was hardly learned"""
KEPT = 0.5
"""of the base's prompt following: with less, prompts are followed no longer"""
SAME = 1.0
"""of the references' likeness among themselves: pictures that are so alike repeat them"""
SURE = 2.0  # standard errors
NOTHING, COPIED, IGNORES, LEARNED = "nothing", "copied", "prompts ignored", "learned"


@dataclass(frozen=True)
class Share:
    """A share of the room with its standard error over prompts, in the same unit."""

    value: float
    error: float

    @property
    def sure(self) -> bool:
        """Whether it is above zero by its error."""
        return self.value - SURE * self.error > 0

    def __str__(self) -> str:
        return f"{100 * self.value:.0f} % (give or take {100 * SURE * self.error:.0f})"


@dataclass(frozen=True)
class Shares:
    """A column's three shares; None where there is nothing to compare with, or no room between floor and ceiling."""

    likeness: Share | None
    prompts: Share | None
    sameness: Share | None

    @property
    def prompts_lost(self) -> bool:
        """Whether less than `KEPT` of the base's prompt following is left, beyond its error."""
        prompts = self.prompts
        return prompts is not None and Share(KEPT - prompts.value, prompts.error).sure


@dataclass(frozen=True)
class LearningVerdict:
    """`finding` for code; `lines` for people, the finding first and the advice last.

    `best` is the strength at which likeness and prompts together are best, None where none is better than the base or
    one strength was drawn.
    """

    finding: str
    lines: tuple[str, ...]
    best: float | None = None

    @property
    def good(self) -> bool:
        return self.finding == LEARNED


def shares_of(measurement: Measurement, column: ColumnScores) -> Shares:
    """The shares of one column."""
    floor, ceiling = measurement.floor, measurement.ceiling
    likeness = sameness = None
    if column.subject and has_room(measurement):
        likeness = share(difference(column.subject, floor.subject), top(measurement) - mean(floor.subject))
    own, others = difference(column.prompt, column.unrelated), difference(floor.prompt, floor.unrelated)
    follows = share(others, 1.0)
    prompts = None
    if follows.sure:
        lost = share(difference(own, others), follows.value)
        prompts = Share(1 + lost.value, lost.error)
    if ceiling is not None and ceiling > mean(floor.alike):
        sameness = share(difference(column.alike, floor.alike), ceiling - mean(floor.alike))
    return Shares(likeness, prompts, sameness)


def top(measurement: Measurement) -> float:
    """The ceiling; where it is unknown the likeness of pictures that are the same."""
    return 1.0 if measurement.ceiling is None else measurement.ceiling


def has_room(measurement: Measurement) -> bool:
    """Whether the references are surely more like each other than the base's pictures of the class are like them."""
    floor = measurement.floor.subject
    return bool(floor) and share([top(measurement) - value for value in floor], 1.0).sure


def best_column(measurement: Measurement) -> ColumnScores | None:
    """The trained column that `selection` finds best; None where none is better than the base."""
    if not has_room(measurement):
        return None
    anchors = Anchors(_point(measurement.floor), top(measurement))
    best = max(measurement.columns[1:], key=lambda column: anchors.score(_point(column)))
    return best if anchors.score(_point(best)) > 0 else None


def _point(column: ColumnScores) -> Point:
    return Point(0, mean(column.subject), mean(column.prompt), mean(column.unrelated))


def finding_of(shares: Shares) -> str:
    """What the shares at full strength say."""
    likeness, sameness = shares.likeness, shares.sameness
    if shares.prompts_lost:
        repeats = any(one is not None and one.value >= SAME for one in (likeness, sameness))
        return COPIED if repeats else IGNORES
    return LEARNED if likeness is not None and likeness.sure and likeness.value >= LITTLE else NOTHING


def difference(after: Sequence[float], before: Sequence[float]) -> list[float]:
    """Prompt by prompt."""
    return [a - b for a, b in zip(after, before, strict=True)]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def share(differences: Sequence[float], room: float) -> Share:
    """The mean of paired differences and its standard error, as shares of `room`; of no room neither is known."""
    if room <= 0 or len(differences) < 2:
        return Share(math.nan, math.nan)
    middle = mean(differences)
    variance = sum((value - middle) ** 2 for value in differences) / (len(differences) - 1)
    return Share(middle / room, math.sqrt(variance / len(differences)) / room)
