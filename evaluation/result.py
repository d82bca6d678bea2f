"""The result of an evaluation: the samples of each candidate, their scores, and the frontier of both fidelities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..core.statistics import Interval, bootstrap_interval
from ..core.values import Prompt
from .samples import Candidate, DrawSettings
from .selection import Anchors, Point


@dataclass(frozen=True)
class EvaluationSamples:
    """The pictures of each candidate, prompt by prompt, `settings.count` of each; the first candidate is the base.

    `note` is the prompt set's: what is to be known of the source of its prompts.
    """

    base: str
    candidates: tuple[Candidate, ...]
    prompts: tuple[Prompt, ...]
    settings: DrawSettings
    images: Sequence[Sequence[Image.Image]]
    note: str = ""

    @property
    def groups(self) -> list[int]:
        """The index of each picture's prompt."""
        return [number for number in range(len(self.prompts)) for _ in range(self.settings.count)]


@dataclass(frozen=True)
class MetricScores:
    """Scores by metric, and the model and axis of each metric.

    `per_image` has for each candidate a score for each picture; `per_set`, of metrics of sets of pictures, a value for
    each candidate, None where it is unknown. `left_out` has a line for each metric that could not be computed.
    """

    per_image: Mapping[str, Sequence[Sequence[float]]]
    per_set: Mapping[str, Sequence[float | None]]
    models: Mapping[str, str]
    axes: Mapping[str, str]
    left_out: tuple[str, ...] = ()

    def first_of(self, axis: str) -> str | None:
        """The first metric of an axis: it is that axis of the frontier."""
        return next((name for name, of in self.axes.items() if of == axis), None)


@dataclass(frozen=True)
class Evaluation:
    """What was sampled and measured.

    `points` are the candidates' two fidelities, empty unless both were measured; `likeness` is that of the references
    among themselves.
    """

    samples: EvaluationSamples
    metrics: MetricScores
    points: tuple[Point, ...] = ()
    likeness: float = 1.0
    references: Sequence[Image.Image] = field(default=(), compare=False)

    def interval(self, metric: str, candidate: int) -> Interval:
        """The mean score with its 95 % bootstrap interval over prompts."""
        return bootstrap_interval(self.metrics.per_image[metric][candidate], self.samples.groups, resamples=2000)

    @property
    def anchors(self) -> Anchors | None:
        return Anchors(self.points[0], self.likeness) if self.points else None

    @property
    def frontier(self) -> tuple[float, ...]:
        """The score of each candidate by `selection`; the untrained base has 0. Empty without both fidelities."""
        anchors = self.anchors
        return tuple(anchors.score(point) for point in self.points) if anchors else ()

    @property
    def best(self) -> int | None:
        """The index of the candidate with the best score, never the base; None where no score is above 0."""
        scores = self.frontier
        if len(scores) < 2:
            return None
        number = max(range(1, len(scores)), key=scores.__getitem__)
        return number if scores[number] > 0 else None

    def plain(self) -> dict[str, Any]:
        """For JSON: settings, prompts, and each candidate's means, intervals and scores."""
        samples = self.samples
        return {
            "base": samples.base,
            "prompts": [{"text": prompt.text, "stripped": prompt.stripped} for prompt in samples.prompts],
            "prompts_note": samples.note,
            "settings": vars(samples.settings),
            "models": dict(self.metrics.models),
            "left_out": list(self.metrics.left_out),
            "best": None if self.best is None else samples.candidates[self.best].name,
            "candidates": [self._row(number, candidate) for number, candidate in enumerate(samples.candidates)],
        }

    def _row(self, number: int, candidate: Candidate) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        for name, scores in self.metrics.per_image.items():
            mean = self.interval(name, number)
            metrics[name] = {"mean": mean.mean, "interval": [mean.low, mean.high], "scores": list(scores[number])}
        metrics |= {name: {"mean": values[number]} for name, values in self.metrics.per_set.items()}
        row: dict[str, Any] = {"name": candidate.name, "strength": candidate.strength, "metrics": metrics}
        if candidate.adapter is not None:
            row |= {"key": candidate.adapter.key, "trigger": candidate.adapter.trigger}
        if self.frontier:
            row["score"] = self.frontier[number]
        return row
