"""Metrics of several candidates (the base, adapters, strengths of one adapter) on the same prompts and seeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image

from ..core.errors import FewShotError
from ..core.values import BaseModelRef, Prompt, PromptSet
from .measurement import Measure, MeasurementPlan, first_of
from .metrics.metric import Metric
from .result import Evaluation, EvaluationSamples, MetricScores
from .samples import Candidate, DrawSettings, ImageFiles, SamplingContext, draw
from .score import ScoreRequest, cached_embeddings, model_on_device, score_images
from .selection import Point
from .set_metrics import PRES, VARIED, class_prompt, diversities, language_drift

log = logging.getLogger(__name__)
NO_METRIC = (
    "all numbers: there is no model that measures; put the folder of a transformers CLIPModel, such as "
    "openai/clip-vit-base-patch32, and of a DINO, such as facebook/dinov2-small, into models/clip_vision"
)


def evaluate(
    base: BaseModelRef,
    candidates: Sequence[Candidate],
    prompts: PromptSet,
    plan: MeasurementPlan,
    settings: DrawSettings,
    context: SamplingContext,
) -> Evaluation:
    """Draw and score the base and each candidate.

    What cannot be measured is left out by name: pictures without numbers can still be compared by eye.

    Raises:
        FewShotError: there is no prompt, names are not unique, or what `draw` and the metrics refuse.
    """
    everyone = (Candidate("base"), *candidates)
    _check(everyone, prompts, plan.measures)
    images = draw(base, everyone, prompts, settings, context)
    measures = plan.measurable
    left_out = [f"{m.name}: no pictures of the subject are connected" for m in plan.measures if m not in measures]
    left_out += plan.left_out
    if not plan.measures:
        left_out.append(NO_METRIC)
    class_images: list[ImageFiles] = []
    if plan.drift and plan.noun and first_of("subject", measures):  # drawn before metrics take their memory
        few = replace(settings, count=plan.drift)
        class_images = draw(base, everyone, PromptSet((class_prompt(plan.noun),)), few, context)
    prompt_of_image = [prompt for prompt in prompts.prompts for _ in range(settings.count)]
    scores, unrelated_fit = _score(replace(plan, measures=measures), images, prompt_of_image, context)
    measures = [m for m in measures if _is_finite(m.name, scores, left_out)]
    plan = replace(plan, measures=measures)
    class_images = class_images if first_of("subject", measures) else []
    groups = [prompt.text for prompt in prompt_of_image] if settings.count > 1 else []
    per_set = _set_metrics(plan, images, class_images, groups, context, left_out)
    points, likeness = _points(plan, scores, unrelated_fit, context.device)
    log.info("evaluated %d candidates on %d prompts", len(everyone), len(prompts.prompts))
    models = {m.name: m.metric.model_id for m in measures} | _set_metric_models(per_set, plan)
    axes = {m.name: m.axis for m in measures}
    return Evaluation(
        EvaluationSamples(base.name, everyone, prompts.prompts, settings, images, prompts.note),
        MetricScores(scores, per_set, models, axes, tuple(left_out)),
        points,
        likeness,
        plan.references,
    )


def _set_metric_models(per_set: Mapping[str, Sequence[float | None]], plan: MeasurementPlan) -> dict[str, str]:
    """The model of each metric of whole sets of pictures."""
    subject = first_of("subject", plan.measures)
    model = f"{subject.name} of {subject.metric.model_id}" if subject else ""
    return {name: model if name == PRES else plan.distance_id for name in per_set}


def _check(everyone: Sequence[Candidate], prompts: PromptSet, measures: Sequence[Measure]) -> None:
    if not prompts.prompts:
        raise FewShotError("there is no prompt to draw; connect a prompt set")
    for what, names in (("candidates", [c.name for c in everyone]), ("metrics", [m.name for m in measures])):
        if len(set(names)) < len(names):
            raise FewShotError(f"two {what} have the same name ({', '.join(names)}); give each its own")


def _set_metrics(
    plan: MeasurementPlan,
    images: Sequence[ImageFiles],
    class_images: Sequence[ImageFiles],
    groups: Sequence[str],
    context: SamplingContext,
    left_out: list[str],
) -> dict[str, list[float | None]]:
    """Diversity within `groups`, and language drift by `class_images`; what cannot be computed goes into `left_out`."""
    results: dict[str, list[float | None]] = {}
    if plan.distance is None or not groups:
        reason = "there is no model" if plan.distance is None else "it needs two pictures of each prompt"
        left_out.append(f"{VARIED}: {reason}")
    else:
        results[VARIED] = diversities(images, groups, plan.distance, context)
    if class_images:
        results |= language_drift(class_images, plan, context)
    elif plan.drift:
        left_out.append(f"{PRES}: it needs the subject's pictures and noun")
    return results


def _score(
    plan: MeasurementPlan, images: Sequence[ImageFiles], prompts: Sequence[Prompt], context: SamplingContext
) -> tuple[dict[str, list[list[float]]], list[float]]:
    """By metric each candidate's scores; and each candidate's mean fit to the prompts of other pictures, 0 where all
    are the same."""
    requests = [ScoreRequest(m.metric, prompts) for m in plan.measures]
    text, others = first_of("prompt", plan.measures), unrelated(prompts)
    if text is not None and others:
        requests.append(ScoreRequest(text.metric, others))
    scores = score_images(requests, images, plan.references, context.device, context.progress)
    fit = [_mean(values) for values in scores[-1]] if len(requests) > len(plan.measures) else [0.0] * len(images)
    return {m.name: values for m, values in zip(plan.measures, scores, strict=False)}, fit


def _is_finite(name: str, scores: dict[str, list[list[float]]], left_out: list[str]) -> bool:
    """Whether all of a metric's scores are finite; else they are dropped, and it is left out."""
    bad = sum(not math.isfinite(value) for row in scores[name] for value in row)
    if bad:
        left_out.append(f"{name}: {bad} of its scores are not numbers; its model's files may be damaged")
        del scores[name]
    return not bad


def _points(
    plan: MeasurementPlan,
    scores: Mapping[str, Sequence[Sequence[float]]],
    unrelated_fit: Sequence[float],
    device: torch.device | str,
) -> tuple[tuple[Point, ...], float]:
    """Each candidate's two fidelities, and the references' likeness among themselves.

    `unrelated_fit` is each candidate's mean fit to the prompts of other pictures.
    """
    subject, text = first_of("subject", plan.measures), first_of("prompt", plan.measures)
    if subject is None or text is None or not all(map(math.isfinite, unrelated_fit)):
        return (), 1.0
    rows = enumerate(zip(scores[subject.name], scores[text.name], unrelated_fit, strict=True))
    points = tuple(Point(number, _mean(like), _mean(fit), other) for number, (like, fit, other) in rows)
    if subject.ceiling is not None:
        return points, subject.ceiling
    with model_on_device(subject.metric, device), cached_embeddings(subject.metric, plan.references):
        return points, mutual_likeness(subject.metric, plan.references)


def unrelated(prompts: Sequence[Prompt]) -> list[Prompt]:
    """For each prompt another one of the set; nothing where all are the same."""
    different = list({prompt.stripped: prompt for prompt in prompts}.values())
    if len(different) < 2:
        return []
    indices = {prompt.stripped: index for index, prompt in enumerate(different)}
    return [different[(indices[prompt.stripped] + 1) % len(different)] for prompt in prompts]


def mutual_likeness(metric: Metric, references: Sequence[Image.Image]) -> float:
    """The mean likeness of each reference to the others; 1 for a single one."""
    if len(references) < 2:
        return 1.0
    no_prompt = [Prompt("", "")]
    others = [[other for other in references if other is not image] for image in references]
    pairs = zip(references, others, strict=True)
    return _mean([float(metric.scores([image], no_prompt, rest)) for image, rest in pairs])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
