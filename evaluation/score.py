"""Scores of many pictures: a chunk at a time, one model on the device at a time, each picture seen once by each model.

A metric's numbers do not depend on what else is in its chunk, so that a thousand pictures take the memory of a chunk
and can be watched and cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..core.progress import Watcher
from ..core.values import Prompt
from .metrics.metric import Metric
from .reward import SEERS

CHUNK = 32  # pictures that are open at once
BEHIND = (*SEERS, "eyes", "asked")  # what a metric or a distance calls the model behind it


@dataclass(frozen=True)
class Reading:
    """A metric, and the prompt that it reads beside each picture of a candidate."""

    metric: Metric
    prompts: Sequence[Prompt]


def scored(
    readings: Sequence[Reading],
    pictures: Sequence[Sequence[Image.Image]],
    references: Sequence[Image.Image],
    device: torch.device | str,
    watcher: Watcher,
) -> list[list[list[float]]]:
    """For each reading and each candidate's `pictures` a score for each picture.

    Each model is opened on `device` for its own readings and waits on the host afterwards.

    Raises:
        FewShotError: what the metrics refuse.
    """
    found: list[list[list[float]]] = [[[] for _ in pictures] for _ in readings]
    groups = _by_model(readings)
    done, total = 0, len(groups) * sum(map(len, pictures))
    for group in groups:
        names = ", ".join(dict.fromkeys(readings[number].metric.name for number in group))
        with awake(readings[group[0]].metric, device), seeing_once(readings[group[0]].metric, references) as forget:
            for place, drawn in enumerate(pictures):
                for start in range(0, len(drawn), CHUNK):
                    watcher.check()
                    watcher.progress(done, total, f"{names}: {done} of {total} scored")
                    some = list(drawn[start : start + CHUNK])
                    for number in group:
                        asked = readings[number].prompts[start : start + CHUNK]
                        found[number][place] += readings[number].metric.scores(some, asked, references).tolist()
                    done += len(some)
                    forget()
    if total:
        watcher.progress(total, total, f"{total} scored")
    return found


def _by_model(readings: Sequence[Reading]) -> list[list[int]]:
    """The numbers of the readings that share a model, in the order of their first."""
    groups: dict[int, list[int]] = {}
    for number, reading in enumerate(readings):
        groups.setdefault(id(model_of(reading.metric) or reading.metric), []).append(number)
    return list(groups.values())


def model_of(thing: Any) -> Any:
    """The model behind a metric or a distance, which can `move`; None where there is none."""
    return next((model for name in BEHIND if hasattr(model := getattr(thing, name, None), "move")), None)


@contextmanager
def awake(thing: Any, device: torch.device | str) -> Iterator[None]:
    """The model behind `thing` on the device that computes; it waits on the host afterwards."""
    model = model_of(thing)
    if model is None or torch.device(device).type == "cpu":
        yield
        return
    model.move(torch.device(device))
    try:
        yield
    finally:
        model.move(torch.device("cpu"))


@contextmanager
def seeing_once(thing: Any, kept: Sequence[Image.Image]) -> Iterator[Callable[[], None]]:
    """The model behind `thing` embeds each picture once, for all metrics that share it.

    Gives what makes it forget all pictures but `kept`, the references.
    """
    model = model_of(thing)
    if not hasattr(model, "images"):
        yield lambda: None
        return
    once = _Once(model.images, frozenset(map(id, kept)))
    model.images = once
    try:
        yield once.forget
    finally:
        del model.images  # the class's own again


class _Once:
    """`see`, remembering the embedding (D,) of each picture; pictures are known by being the same object, so they are
    held as long as they are remembered."""

    def __init__(self, see: Callable[[Sequence[Image.Image]], torch.Tensor], kept: frozenset[int]):
        self.see, self.kept = see, kept
        self.known: dict[int, tuple[Image.Image, torch.Tensor]] = {}

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        new = list({id(image): image for image in images if id(image) not in self.known}.values())
        if new:
            self.known |= {id(image): (image, row) for image, row in zip(new, self.see(new), strict=True)}
        return torch.stack([self.known[id(image)][1] for image in images])

    def forget(self) -> None:
        self.known = {key: value for key, value in self.known.items() if key in self.kept}
