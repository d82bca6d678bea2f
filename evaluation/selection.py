"""Which checkpoint of a training is the best: a point on the frontier between two fidelities, by one defined number.

A training walks from "follows every prompt, does not know the subject" to "shows the subject, follows no prompt".
Each validated step is a point (subject fidelity, prompt fidelity); which one is best is decided by `score`:

    f = (subject - untrained subject) / (likeness of the references among themselves - untrained subject)
    p = (prompt - unrelated) / (untrained prompt - unrelated)
    score = 2 f p / (f + p) where both are positive, else the smaller of f, p and 0

f is the share of the possible likeness that was gained: 0 for the untrained base, 1 when the drawn pictures are as like
the references as these are like each other. p is the share of the prompt following that was kept: 1 for the untrained
base, 0 when a picture fits its own prompt no better than the others' prompts. Their harmonic mean (van Rijsbergen 1979)
is high only where both are. Because all four anchors are known at step 0, a point's score does not depend on the points
after it, and because it rises with both fidelities, the best point is never dominated: it lies on the Pareto frontier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SMALLEST_SPAN = 0.01  # cosine; anchors that lie closer together than this are noise


@dataclass(frozen=True)
class Point:
    """The validation after `step` whole steps: mean cosines, in [-1, 1]; numbers that are not finite failed.

    `subject`: of drawn pictures and the references. `prompt`: of drawn pictures and their prompts. `unrelated`: of
    drawn pictures and the prompts of the others.
    """

    step: int
    subject: float
    prompt: float
    unrelated: float

    @property
    def is_finite(self) -> bool:
        """Whether the validation gave numbers."""
        return all(map(math.isfinite, (self.subject, self.prompt, self.unrelated)))


@dataclass(frozen=True)
class Anchors:
    """What both fidelities are measured by: the untrained point, and the references' likeness among themselves."""

    untrained: Point
    likeness: float = 1.0

    def subject_gain(self, point: Point) -> float:
        """f: 0 for the untrained base, 1 for a likeness as that of the references."""
        return (point.subject - self.untrained.subject) / _span(self.likeness - self.untrained.subject)

    def prompt_retention(self, point: Point) -> float:
        """p: 1 for the untrained base, 0 for pictures that know nothing of their prompts."""
        floor = self.untrained.unrelated
        return (point.prompt - floor) / _span(self.untrained.prompt - floor)

    def score(self, point: Point) -> float:
        """The number by which points are compared; -inf where the validation failed."""
        if not point.is_finite:
            return -math.inf
        return harmonic(self.subject_gain(point), self.prompt_retention(point))


def harmonic(f: float, p: float) -> float:
    """2 f p / (f + p) where both are positive, else the smallest of f, p and 0."""
    return 2 * f * p / (f + p) if f > 0 and p > 0 else min(f, p, 0.0)


def _span(width: float) -> float:
    return max(width, SMALLEST_SPAN)


@dataclass(frozen=True)
class Curve:
    """The points of one training so far, by rising step. The first is the untrained one, at the step it began with."""

    points: tuple[Point, ...]
    likeness: float = 1.0

    def plain(self) -> dict[str, Any]:
        """The curve as lists and numbers, for JSON and for a graph's loss map."""
        names = ("step", "subject", "prompt", "unrelated")
        return {name: [getattr(p, name) for p in self.points] for name in names} | {"likeness": self.likeness}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Curve:
        """What `plain` gave."""
        columns = (plain[name] for name in ("step", "subject", "prompt", "unrelated"))
        return cls(tuple(Point(*row) for row in zip(*columns, strict=True)), plain["likeness"])

    @property
    def anchors(self) -> Anchors | None:
        """None while there is no untrained point, or where its validation failed: nothing can be compared then."""
        first = self.points[0] if self.points else None
        return Anchors(first, self.likeness) if first is not None and first.is_finite else None

    @property
    def scores(self) -> tuple[float, ...]:
        """The score of each point; not a number without anchors."""
        anchors = self.anchors
        return tuple(anchors.score(point) if anchors else math.nan for point in self.points)

    @property
    def best(self) -> Point | None:
        """The point of the frontier with the highest score, the earliest of equals; None where nothing was gained."""
        anchors = self.anchors
        if anchors is None:
            return None
        best = max(self.frontier, key=anchors.score, default=None)  # max keeps the first of equals
        return best if best is not None and anchors.score(best) > 0 else None

    def is_over(self, patience: int) -> bool:
        """Whether the last `patience` points were all no better than the best one before them; 0 never ends."""
        best = self.best
        if not patience or best is None:
            return False
        return len(self.points) - 1 - self.points.index(best) >= patience

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The trained points that no other one surpasses in one fidelity without falling behind in the other."""
        rivals = [point for point in self.points[1:] if point.is_finite]
        return tuple(p for p in rivals if not any(_dominates(q, p) for q in rivals))


def _dominates(point: Point, other: Point) -> bool:
    at_least = point.subject >= other.subject and point.prompt >= other.prompt
    return at_least and (point.subject > other.subject or point.prompt > other.prompt)
