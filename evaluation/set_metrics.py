"""Numbers of whole sets of pictures: how different those of one prompt are, and how far the class alone has drifted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from PIL import Image

from ..core.progress import Watcher
from ..core.values import Prompt
from .metrics.diversity import Distance, diversity
from .metrics.metric import Metric
from .score import Reading, awake, scored

DRIFT = "a photo of a {noun}"
PRES, DIV, VARIED = "language drift (PRES)", "language drift (DIV)", "diversity"


def varied(
    pictures: Sequence[Sequence[Image.Image]],
    groups: Sequence[object],
    distance: Distance,
    device: torch.device | str,
    watcher: Watcher,
) -> list[float | None]:
    """The diversity of each candidate's pictures, of which those of one group (a prompt) are compared; see `diversity`.

    Each group can be seen and cancelled.
    """
    calls, total = count(), len(pictures) * len(set(groups))

    def watched(images: Sequence[Image.Image]) -> torch.Tensor:
        watcher.check()
        watcher.progress(next(calls), total, f"{VARIED} of {len(images)} pictures")
        return distance(images)

    with awake(distance, device):
        return [diversity(drawn, groups, watched) for drawn in pictures]


def class_alone(noun: str) -> Prompt:
    """What tells how far the class has drifted."""
    text = DRIFT.format(noun=noun)
    return Prompt(text, text)


def drifted(
    alone: Sequence[Sequence[Image.Image]],
    noun: str,
    subject: Metric,
    distance: Distance | None,
    references: Sequence[Image.Image],
    device: torch.device | str,
    watcher: Watcher,
) -> dict[str, list[float | None]]:
    """How like the subject (PRES) and each other (DIV, of two and more) each candidate's pictures of the class alone
    have become."""
    count = len(alone[0])
    (numbers,) = scored([Reading(subject, [class_alone(noun)] * count)], alone, references, device, watcher)
    found: dict[str, list[float | None]] = {PRES: [sum(values) / count for values in numbers]}
    if distance is not None and count > 1:
        found[DIV] = varied(alone, [0] * count, distance, device, watcher)
    return found
