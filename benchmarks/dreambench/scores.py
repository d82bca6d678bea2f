"""Scores of drawn pictures, kept by metric, model and pictures, so that a further metric scores its own only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ...core.atomic import write_whole
from ...core.context import RunContext
from ...core.values import Prompt, content_key
from ...evaluation.evaluate import mutual_likeness
from ...evaluation.measurement import Measure
from ...evaluation.samples import ImageFiles
from ...evaluation.score import ScoreRequest, model_on_device, score_images

REVISION = 1  # raised when the same pictures begin to get other scores


@dataclass(frozen=True)
class Scored:
    """Pictures with their prompts, and the subject's pictures, whose keys tell them."""

    images: ImageFiles
    prompts: Sequence[Prompt]
    references: Sequence[Image.Image]
    reference_keys: Sequence[str]


def score(measures: Sequence[Measure], scored: Scored, context: RunContext) -> dict[str, list[float]]:
    """By metric a score for each picture; those in `context.folder` are read, the others are made."""
    files = {measure.name: context.folder / f"{_key(measure, scored)[:32]}.json" for measure in measures}
    missing = [measure for measure in measures if not files[measure.name].is_file()]
    if missing:
        requests = [ScoreRequest(measure.metric, scored.prompts) for measure in missing]
        made = score_images(requests, [scored.images], scored.references, context.device, context.progress)
        for measure, (values,) in zip(missing, made, strict=True):
            write_whole(files[measure.name], json.dumps(values).encode())
    return {name: json.loads(file.read_text("utf-8")) for name, file in files.items()}


def _key(measure: Measure, scored: Scored) -> str:
    """Pictures are named by their content keys."""
    pictures = [f"{file.parent.name}/{file.name}" for file in scored.images.files]
    references = list(scored.reference_keys) if measure.axis == "subject" else []
    texts = [prompt.words for prompt in scored.prompts]
    return content_key("dreambench", REVISION, measure.name, measure.metric.model_id, pictures, references, texts)


def real_likeness(measures: Sequence[Measure], scored: Scored, context: RunContext) -> dict[str, float]:
    """By metric of likeness that of the subject's pictures among themselves: the ceiling. A single picture has none."""
    found: dict[str, float] = {}
    for measure in measures:
        if measure.axis == "subject" and len(scored.references) > 1:
            with model_on_device(measure.metric.model, context.device):
                found[measure.name] = mutual_likeness(measure.metric, scored.references)
    return found
