"""Numbers of several candidates (the base, adapters, strengths of one) on the same prompts and seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from ..core.errors import FewShotError
from ..core.progress import Silent, Watcher
from ..core.statistics import Interval, bootstrap_interval
from ..core.values import BaseModelRef, Prompt, PromptSet
from .metrics.diversity import Distance
from .metrics.metric import Metric
from .samples import Candidate, DrawSettings, Kept, draw
from .score import Reading, awake, scored, seeing_once
from .selection import Anchors, Point
from .set_metrics import PRES, VARIED, class_alone, drifted, varied

log = logging.getLogger(__name__)
NO_METRIC = (
    "all numbers: there is no model that measures; put the folder of a transformers CLIPModel, such as "
    "openai/clip-vit-base-patch32, and of a DINO, such as facebook/dinov2-small, into models/clip_vision"
)


@dataclass(frozen=True)
class Measure:
    """A metric and what it tells: likeness to the subject, following of the prompt, or what people prefer.

    `ceiling` is the best a picture can do where that is known; else it is the references' likeness among themselves.
    """

    metric: Metric
    axis: Literal["subject", "prompt", "preference"]
    ceiling: float | None = None

    @property
    def name(self) -> str:
        return self.metric.name


@dataclass(frozen=True)
class Asked:
    """What is measured besides the pictures themselves.

    `references` are the subject's pictures; without them no likeness is measured. `noun` and `drift` pictures of "a
    photo of a {noun}" tell how far the class has drifted, 0 none. `distance` tells how different two pictures are, by
    the model `distance_id`. `left_out` says what there was no model for.
    """

    references: Sequence[Image.Image] = ()
    noun: str = ""
    drift: int = 0
    distance: Distance | None = None
    distance_id: str = ""
    left_out: Sequence[str] = ()


@dataclass(frozen=True)
class Evaluation:
    """What was drawn and found. Pictures and scores go prompt by prompt, `count` of each; the base is the first."""

    base: str
    candidates: tuple[Candidate, ...]
    prompts: tuple[Prompt, ...]
    settings: DrawSettings
    images: Sequence[Sequence[Image.Image]]
    scores: Mapping[str, Sequence[Sequence[float]]]
    """by metric: for each candidate a score for each picture"""
    whole: Mapping[str, Sequence[float | None]]
    """by metric of whole sets of pictures: a value for each candidate; None where it cannot be told"""
    models: Mapping[str, str]
    """which model gave each metric's numbers"""
    axes: Mapping[str, str]
    left_out: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    likeness: float = 1.0
    references: Sequence[Image.Image] = field(default=(), compare=False)
    note: str = ""
    """of the prompt set: what is to be known of where its prompts come from"""

    @property
    def groups(self) -> list[int]:
        """The prompt of each picture."""
        return [number for number in range(len(self.prompts)) for _ in range(self.settings.count)]

    def interval(self, metric: str, candidate: int) -> Interval:
        """The mean score with its 95 % bootstrap interval over prompts."""
        return bootstrap_interval(self.scores[metric][candidate], self.groups, resamples=2000)

    def named(self, axis: str) -> str | None:
        """The first metric of an axis: it is that axis of the frontier."""
        return next((name for name, of in self.axes.items() if of == axis), None)

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
        """The candidate with the best score, never the base; None where nothing was gained or cannot be told."""
        scores = self.frontier
        if len(scores) < 2:
            return None
        number = max(range(1, len(scores)), key=scores.__getitem__)
        return number if scores[number] > 0 else None

    def plain(self) -> dict[str, Any]:
        """For JSON: settings, prompts, and each candidate's means, intervals and scores."""
        rows = []
        for number, one in enumerate(self.candidates):
            found = {}
            for name, scores in self.scores.items():
                mean = self.interval(name, number)
                found[name] = {"mean": mean.mean, "interval": [mean.low, mean.high], "scores": list(scores[number])}
            found |= {name: {"mean": values[number]} for name, values in self.whole.items()}
            row: dict[str, Any] = {"name": one.name, "strength": one.strength, "metrics": found}
            if one.adapter is not None:
                row |= {"key": one.adapter.key, "trigger": one.adapter.trigger}
            if self.frontier:
                row["score"] = self.frontier[number]
            rows.append(row)
        return {
            "base": self.base,
            "prompts": [{"text": prompt.text, "stripped": prompt.stripped} for prompt in self.prompts],
            "prompts_note": self.note,
            "settings": vars(self.settings),
            "models": dict(self.models),
            "left_out": list(self.left_out),
            "best": None if self.best is None else self.candidates[self.best].name,
            "candidates": rows,
        }


def evaluate(
    base: BaseModelRef,
    candidates: Sequence[Candidate],
    prompts: PromptSet,
    measures: Sequence[Measure],
    settings: DrawSettings,
    cache: Path,
    device: torch.device | str,
    asked: Asked | None = None,
    watcher: Watcher | None = None,
    tokenizer_folder: Path | None = None,
) -> Evaluation:
    """Draw and score the base and each candidate. Samples lie in `cache`; see `draw`.

    What cannot be measured is left out by name: pictures without numbers can still be compared by eye.

    Raises:
        FewShotError: there is no prompt, names are not unique, or what `draw` and the metrics refuse.
    """
    asked, watcher = asked or Asked(), watcher or Silent()
    everyone = (Candidate("base"), *candidates)
    _check(everyone, prompts, measures)
    place = (cache, device, watcher, tokenizer_folder)
    images = draw(base, everyone, prompts, settings, *place)
    able = [m for m in measures if asked.references or m.axis != "subject"]
    left_out = [f"{m.name}: no pictures of the subject are connected" for m in measures if m not in able]
    left_out += asked.left_out
    if not measures:
        left_out.append(NO_METRIC)
    alone: list[Kept] = []
    if asked.drift and asked.noun and any(m.axis == "subject" for m in able):  # drawn before metrics take their memory
        few = replace(settings, count=asked.drift)
        alone = draw(base, everyone, PromptSet((class_alone(asked.noun),)), few, *place)
    wanted = [prompt for prompt in prompts.prompts for _ in range(settings.count)]
    scores, stray = _scored(able, images, wanted, asked, place)
    able = [m for m in able if _gave_numbers(m.name, scores, left_out)]
    alone = alone if any(m.axis == "subject" for m in able) else []
    groups = [prompt.text for prompt in wanted] if settings.count > 1 else []
    whole = _whole_sets(images, alone, groups, asked, able, place, left_out)
    points, likeness = _points(able, scores, stray, asked, device)
    log.info("evaluated %d candidates on %d prompts", len(everyone), len(prompts.prompts))
    return Evaluation(
        base=base.name,
        candidates=everyone,
        prompts=prompts.prompts,
        settings=settings,
        images=images,
        scores=scores,
        whole=whole,
        models={m.name: m.metric.model_id for m in able} | _seen_by(whole, able, asked),
        axes={m.name: m.axis for m in able},
        left_out=tuple(left_out),
        points=points,
        likeness=likeness,
        references=asked.references,
        note=prompts.note,
    )


def _seen_by(whole: Mapping[str, Sequence[float | None]], able: Sequence[Measure], asked: Asked) -> dict[str, str]:
    """The model of each metric of whole sets of pictures."""
    subject = next((f"{m.name} of {m.metric.model_id}" for m in able if m.axis == "subject"), "")
    return {name: subject if name == PRES else asked.distance_id for name in whole}


def _check(everyone: Sequence[Candidate], prompts: PromptSet, measures: Sequence[Measure]) -> None:
    if not prompts.prompts:
        raise FewShotError("there is no prompt to draw; connect a prompt set")
    for what, names in (("candidates", [c.name for c in everyone]), ("metrics", [m.name for m in measures])):
        if len(set(names)) < len(names):
            raise FewShotError(f"two {what} have the same name ({', '.join(names)}); give each its own")


def _whole_sets(
    images: Sequence[Kept],
    alone: Sequence[Kept],
    groups: Sequence[str],
    asked: Asked,
    measures: Sequence[Measure],
    place: tuple,
    left_out: list[str],
) -> dict[str, list[float | None]]:
    """Diversity within `groups` and language drift, where they can be told; `alone` shows the class alone."""
    found: dict[str, list[float | None]] = {}
    _, device, watcher, _ = place
    if asked.distance is None or not groups:
        reason = "there is no model" if asked.distance is None else "it needs two pictures of each prompt"
        left_out.append(f"{VARIED}: {reason}")
    else:
        found[VARIED] = varied(images, groups, asked.distance, device, watcher)
    if alone:
        subject = next(m.metric for m in measures if m.axis == "subject")
        found |= drifted(alone, asked.noun, subject, asked.distance, asked.references, device, watcher)
    elif asked.drift:
        left_out.append(f"{PRES}: it needs the subject's pictures and noun")
    return found


def _scored(
    measures: Sequence[Measure], images: Sequence[Kept], wanted: Sequence[Prompt], asked: Asked, place: tuple
) -> tuple[dict[str, list[list[float]]], list[float]]:
    """By metric each candidate's scores; and each candidate's mean fit to the prompts of other pictures, 0 where all
    are the same."""
    _, device, watcher, _ = place
    readings = [Reading(m.metric, wanted) for m in measures]
    text, others = next((m for m in measures if m.axis == "prompt"), None), unrelated(wanted)
    if text is not None and others:
        readings.append(Reading(text.metric, others))
    numbers = scored(readings, images, asked.references, device, watcher)
    stray = [_mean(found) for found in numbers[-1]] if len(readings) > len(measures) else [0.0] * len(images)
    return {m.name: found for m, found in zip(measures, numbers, strict=False)}, stray


def _gave_numbers(name: str, scores: dict[str, list[list[float]]], left_out: list[str]) -> bool:
    """Whether a metric's scores are all numbers; else they are dropped, and it is left out."""
    bad = sum(not math.isfinite(value) for row in scores[name] for value in row)
    if bad:
        left_out.append(f"{name}: {bad} of its scores are not numbers; its model's files may be damaged")
        del scores[name]
    return not bad


def _points(
    measures: Sequence[Measure],
    scores: Mapping[str, Sequence[Sequence[float]]],
    stray: Sequence[float],
    asked: Asked,
    device: torch.device | str,
) -> tuple[tuple[Point, ...], float]:
    """Each candidate's place between the two fidelities, and the references' likeness among themselves.

    `stray` is each candidate's mean fit to the prompts of other pictures.
    """
    subject = next((m for m in measures if m.axis == "subject"), None)
    text = next((m for m in measures if m.axis == "prompt"), None)
    if subject is None or text is None or not all(map(math.isfinite, stray)):
        return (), 1.0
    rows = enumerate(zip(scores[subject.name], scores[text.name], stray, strict=True))
    points = tuple(Point(number, _mean(like), _mean(fit), other) for number, (like, fit, other) in rows)
    if subject.ceiling is not None:
        return points, subject.ceiling
    with awake(subject.metric, device), seeing_once(subject.metric, asked.references):
        return points, mutual_likeness(subject.metric, asked.references)


def unrelated(wanted: Sequence[Prompt]) -> list[Prompt]:
    """For each prompt another one of the set; nothing where all are the same."""
    different = list({prompt.stripped: prompt for prompt in wanted}.values())
    if len(different) < 2:
        return []
    places = {prompt.stripped: number for number, prompt in enumerate(different)}
    return [different[(places[prompt.stripped] + 1) % len(different)] for prompt in wanted]


def mutual_likeness(metric: Metric, references: Sequence[Image.Image]) -> float:
    """The mean likeness of each reference to the others; 1 for a single one."""
    if len(references) < 2:
        return 1.0
    none = [Prompt("", "")]
    rest = [[other for other in references if other is not one] for one in references]
    return _mean([float(metric.scores([one], none, own)) for one, own in zip(references, rest, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
