"""Scores of many pictures: a chunk at a time, one model on the device at a time, each picture embedded once by each.

A metric's scores do not depend on the rest of the chunk, so that a thousand pictures take the memory of a chunk, and
scoring reports progress and can be cancelled between chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from PIL import Image

from ..core.progress import Progress
from ..core.values import Prompt
from ..vision.embedders.embedder import FrozenEmbedder
from .metrics.metric import Metric, MetricModel

CHUNK = 32  # pictures in memory at once


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
        model = requests[group[0]].metric.model
        names = ", ".join(dict.fromkeys(requests[number].metric.name for number in group))
        with model_on_device(model, device), embedding_once(model, references) as forget:
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
        groups.setdefault(id(request.metric.model), []).append(number)
    return list(groups.values())


@contextmanager
def model_on_device(model: MetricModel | None, device: torch.device | str) -> Iterator[None]:
    """The model of a metric or a distance on `device`; moved to the CPU afterwards."""
    if model is None or torch.device(device).type == "cpu":
        yield
        return
    model.move(torch.device(device))
    try:
        yield
    finally:
        model.move(torch.device("cpu"))


def embedding_once(model: MetricModel, references: Sequence[Image.Image]) -> AbstractContextManager[Callable[[], None]]:
    """The model embeds each picture once, for all metrics that share it; see `FrozenEmbedder.embedding_once`."""
    return model.embedding_once(references) if isinstance(model, FrozenEmbedder) else nullcontext(lambda: None)
