"""What an evaluation measures: the metrics, and what they need besides the drawn pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from .metrics.diversity import Distance
from .metrics.metric import Metric


@dataclass(frozen=True)
class Measure:
    """A metric and its axis: likeness to the subject, prompt following, or human preference.

    `ceiling` is the best score where it is known; else it is the references' likeness among themselves.
    """

    metric: Metric
    axis: Literal["subject", "prompt", "preference"]
    ceiling: float | None = None

    @property
    def name(self) -> str:
        return self.metric.name


@dataclass(frozen=True)
class MeasurementPlan:
    """All that is measured.

    `references` are the subject's pictures; without them no likeness is measured. Language drift is measured on `drift`
    pictures of "a photo of a {noun}", 0 for none. `distance` between two pictures is by the model `distance_id`.
    `left_out` has a line for each metric that has no model.
    """

    measures: Sequence[Measure] = ()
    references: Sequence[Image.Image] = ()
    noun: str = ""
    drift: int = 0
    distance: Distance | None = None
    distance_id: str = ""
    left_out: Sequence[str] = ()

    @property
    def measurable(self) -> list[Measure]:
        """The metrics that can be computed: without references none of likeness."""
        return [measure for measure in self.measures if self.references or measure.axis != "subject"]


def first_of(axis: str, measures: Sequence[Measure]) -> Measure | None:
    """The first metric of an axis: it is that axis of the frontier."""
    return next((measure for measure in measures if measure.axis == axis), None)
