"""Scores of many pictures: a chunk at a time, one model on the device at a time, each picture embedded once by each.

A metric's scores do not depend on the rest of the chunk, so that a thousand pictures take the memory of a chunk, and
scoring reports progress and can be cancelled between chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from ..core.progress import Progress
from ..core.values import Prompt
from .metrics.metric import Metric
from .reward import REWARD_MODEL_ATTRIBUTES

CHUNK = 32  # pictures in memory at once
MODEL_ATTRIBUTES = (*REWARD_MODEL_ATTRIBUTES, "embedder", "vlm")  # what a metric or a distance calls its model


@dataclass(frozen=True)
class ScoreRequest:
    """A metric, and the prompt for each picture of a candidate."""

    metric: Metric
    prompts: Sequence[Prompt]


def score_images(
    requests: Sequence[ScoreRequest],
    images: Sequence[Sequence[Image.Image]],
    references: Sequence[Image.Image],
    device: torch.device | str,
    progress: Progress,
) -> list[list[list[float]]]:
    """For each request and each candidate's `images` a score for each image.

    Each model is moved to `device` for its own requests, and to the CPU afterwards.

    Raises:
        FewShotError: what the metrics refuse.
    """
    scores: list[list[list[float]]] = [[[] for _ in images] for _ in requests]
    groups = _by_model(requests)
    done, total = 0, len(groups) * sum(map(len, images))
    for group in groups:
        first = requests[group[0]].metric
        names = ", ".join(dict.fromkeys(requests[number].metric.name for number in group))
        with model_on_device(first, device), cached_embeddings(first, references) as forget:
            for candidate, drawn in enumerate(images):
                for start in range(0, len(drawn), CHUNK):
                    progress.check()
                    progress.report(done, total, f"{names}: {done} of {total} scored")
                    chunk = list(drawn[start : start + CHUNK])
                    for number in group:
                        prompts = requests[number].prompts[start : start + CHUNK]
                        scores[number][candidate] += requests[number].metric.scores(chunk, prompts, references).tolist()
                    done += len(chunk)
                    forget()
    if total:
        progress.report(total, total, f"{total} scored")
    return scores


def _by_model(requests: Sequence[ScoreRequest]) -> list[list[int]]:
    """The numbers of the requests that share a model, in the order of their first."""
    groups: dict[int, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(id(model_of(request.metric) or request.metric), []).append(number)
    return list(groups.values())


def model_of(owner: Any) -> Any:
    """The model of a metric or a distance, which can `move`; None where there is none."""
    return next((model for name in MODEL_ATTRIBUTES if hasattr(model := getattr(owner, name, None), "move")), None)


@contextmanager
def model_on_device(owner: Any, device: torch.device | str) -> Iterator[None]:
    """The model of a metric or a distance on `device`; moved to the CPU afterwards."""
    model = model_of(owner)
    if model is None or torch.device(device).type == "cpu":
        yield
        return
    model.move(torch.device(device))
    try:
        yield
    finally:
        model.move(torch.device("cpu"))


@contextmanager
def cached_embeddings(owner: Any, pinned: Sequence[Image.Image]) -> Iterator[Callable[[], None]]:
    """The model of `owner` embeds each picture once, for all metrics that share it.

    Gives a function that drops the embeddings of all pictures but `pinned`, the references.
    """
    model = model_of(owner)
    if not hasattr(model, "images"):
        yield lambda: None
        return
    cache = _EmbeddingCache(model.images, frozenset(map(id, pinned)))
    model.images = cache
    try:
        yield cache.drop
    finally:
        del model.images  # the class's own again


class _EmbeddingCache:
    """`embed` with a cache of each picture's embedding (D,). The key is the picture's identity, so the cache holds the
    picture too."""

    def __init__(self, embed: Callable[[Sequence[Image.Image]], torch.Tensor], pinned: frozenset[int]):
        self.embed, self.pinned = embed, pinned
        self.known: dict[int, tuple[Image.Image, torch.Tensor]] = {}

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        new = list({id(image): image for image in images if id(image) not in self.known}.values())
        if new:
            self.known |= {id(image): (image, row) for image, row in zip(new, self.embed(new), strict=True)}
        return torch.stack([self.known[id(image)][1] for image in images])

    def drop(self) -> None:
        self.known = {key: value for key, value in self.known.items() if key in self.pinned}
