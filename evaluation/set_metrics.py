"""Metrics of sets of pictures: diversity within a prompt, and language drift of the class (DreamBooth, section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from PIL import Image

from ..core.values import Prompt
from .measurement import MeasurementPlan, first_of
from .metrics.diversity import Distance, diversity
from .samples import SamplingContext
from .score import ScoreRequest, model_on_device, score_images

CLASS_PROMPT = "a photo of a {noun}"
PRES, DIV, VARIED = "language drift (PRES)", "language drift (DIV)", "diversity"


def diversities(
    images: Sequence[Sequence[Image.Image]], groups: Sequence[object], distance: Distance, context: SamplingContext
) -> list[float | None]:
    """The diversity of each candidate's pictures within each group (a prompt); see `diversity`.

    Progress is reported, and work can be cancelled, at each group.
    """
    calls, total = count(), len(images) * len(set(groups))

    def reported(group: Sequence[Image.Image]) -> torch.Tensor:
        context.progress.check()
        context.progress.report(next(calls), total, f"{VARIED} of {len(group)} pictures")
        return distance(group)

    with model_on_device(distance, context.device):
        return [diversity(drawn, groups, reported) for drawn in images]


def class_prompt(noun: str) -> Prompt:
    """The prompt on which language drift is measured."""
    text = CLASS_PROMPT.format(noun=noun)
    return Prompt(text, text)


def language_drift(
    class_images: Sequence[Sequence[Image.Image]], plan: MeasurementPlan, context: SamplingContext
) -> dict[str, list[float | None]]:
    """How like the subject (PRES), and how unlike each other (DIV, of two and more), each candidate's pictures of the
    class are."""
    count = len(class_images[0])
    subject = first_of("subject", plan.measures)
    assert subject is not None
    request = ScoreRequest(subject.metric, [class_prompt(plan.noun)] * count)
    (scores,) = score_images([request], class_images, plan.references, context.device, context.progress)
    results: dict[str, list[float | None]] = {PRES: [sum(values) / count for values in scores]}
    if plan.distance is not None and count > 1:
        results[DIV] = diversities(class_images, [0] * count, plan.distance, context)
    return results
