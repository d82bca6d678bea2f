"""Prompt-based segmentation: a mask for each picture of a set from a phrase."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.values import Concept, Sample, TrainingSet
from ...vision.segmenters.interface import Box, Finder, Instance, Masker
from ..captions.parse import parts_of
from ..images.crop import same_aspect
from ..images.load import load_picture, stored_picture
from .clean import clean_mask, mask_problem

log = logging.getLogger(__name__)
MAX_OVERLAP = 0.7  # intersection over union above which boxes are one instance
MIN_IOU_ESTIMATE = 0.8  # a masker's own estimate of its IoU below this is worth a warning
TINT = np.array((255, 64, 96), np.float32)


@dataclass(frozen=True)
class SegmentSettings:
    """How masks are made.

    phrases: what to detect, separated by commas; "" takes the class noun, or the two things of a relation's caption.
    threshold: the minimum detection score; 0 takes the model's own.
    instances: only the best detection of each phrase, or all of them, in one mask.
    role: which pictures get masks. keep: pictures that have a mask already keep it.
    missing: what happens to a picture without a detection.
    """

    phrases: str = ""
    threshold: float = 0.0
    instances: Literal["best", "all"] = "best"
    role: Literal["reference", "prior", "all"] = "all"
    keep: bool = True
    missing: Literal["stop", "no mask", "leave out"] = "stop"

    def __post_init__(self):
        allowed = {
            "instances": ("best", "all"),
            "role": ("reference", "prior", "all"),
            "missing": ("stop", "no mask", "leave out"),
        }
        for name, choices in allowed.items():
            if getattr(self, name) not in choices:
                raise FewShotError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}")
        if not 0 <= self.threshold <= 1:
            raise FewShotError(f"the threshold is {self.threshold}; choose a value from 0 (the model's own) to 1")


@dataclass(frozen=True)
class SegmentationResult:
    """The detections in one picture: its unchanged sample, the instances, their mask, and a line for the report."""

    sample: Sample
    instances: tuple[Instance, ...] = ()
    mask: np.ndarray | None = field(default=None, compare=False)
    message: str = ""


def segment(
    pictures: TrainingSet,
    finder: Finder | None,
    masker: Masker | None,
    settings: SegmentSettings,
    cache: Path,
    progress: Progress | None = None,
) -> tuple[TrainingSet, list[SegmentationResult]]:
    """`pictures` with masks of the phrases; masks are written to `cache` as PNG files.

    `finder` may be None where each picture keeps the mask it has.

    Raises:
        FewShotError: no picture has the role; nothing is found in a picture and `settings.missing` is "stop" (the
            message names picture, phrase and best score) or in no picture at all; the finder gives boxes only and
            there is no masker.
    """
    progress = progress or NullProgress()
    todo = [s for s in pictures.samples if settings.role in ("all", s.role)]
    if not todo:
        raise FewShotError(f"the set has no {settings.role} pictures to segment; choose another role")
    results, made, done = [], [], {}
    for sample in pictures.samples:
        progress.check()
        if sample not in todo:
            made.append(sample)
            continue
        concept = pictures.concepts[sample.concept]
        query = (sample.image.key, phrases_of(sample, concept, settings.phrases))
        if sample.mask is not None and settings.keep:
            result = SegmentationResult(sample, message=f"{sample.image.path.name}: keeps its mask")
        else:
            if finder is None:
                raise FewShotError(
                    f"{sample.image.path.name} has no mask, and there is no model to make one; choose one"
                )
            if query not in done:
                done[query] = _segment_picture(sample, query[1], finder, masker, settings)
            result = replace(done[query], sample=sample)
        results.append(result)
        made += _masked_samples(result, settings, cache)
        preview = overlay(result) if result.mask is not None else None
        progress.report(len(results), len(todo), result.message, preview)
    if not any(s.mask is not None for s in made):
        message = "; ".join(o.message for o in results[:3])
        raise FewShotError(f"nothing was found in any of the {len(todo)} pictures: {message}. Choose other words")
    return pictures.with_samples(tuple(made)), results


def given_masks(
    pictures: TrainingSet, masks: Sequence[Image.Image], settings: SegmentSettings, cache: Path
) -> tuple[TrainingSet, list[SegmentationResult]]:
    """`pictures` with `masks` ("L", white on the subject) as they are: one for all, or one for each of the role.

    One for each picture, that is, or one for each sample where pictures have several captions.

    Raises:
        FewShotError: another number of masks, another aspect than the picture's, an empty or a full-frame mask (where
            `settings.missing` is "stop").
    """
    todo = [s for s in pictures.samples if settings.role in ("all", s.role)]
    shown = list(dict.fromkeys(s.image.key for s in todo))
    if len(masks) not in (1, len(shown), len(todo)):
        raise FewShotError(f"there are {len(shown)} pictures but {len(masks)} masks; give one for all or one for each")
    if len(masks) == len(todo):
        rest = iter(masks)
    else:
        rest = iter([masks[0 if len(masks) == 1 else shown.index(s.image.key)] for s in todo])
    results, made = [], []
    for sample in pictures.samples:
        if settings.role not in ("all", sample.role):
            made.append(sample)
            continue
        result = _check_given_mask(replace(sample, mask=None), next(rest))
        results.append(result)
        made += _masked_samples(result, replace(settings, keep=False), cache)
    return pictures.with_samples(tuple(made)), results


def _check_given_mask(sample: Sample, mask: Image.Image) -> SegmentationResult:
    name, size = sample.image.path.name, (sample.image.width, sample.image.height)
    if not same_aspect(mask.size, size):
        raise FewShotError(
            f"{name} has {size[0]} x {size[1]} pixels, its mask {mask.width} x {mask.height}: crop both alike"
        )
    inside = np.asarray(mask.convert("L").resize(size, Image.Resampling.BILINEAR)) >= 128
    if not inside.any() or inside.all():
        problem = "empty" if not inside.any() else "white all over, as if there were no background"
        return SegmentationResult(sample, message=f"{name}: its mask is {problem}")
    return SegmentationResult(
        sample, mask=inside, message=f"{name}: the given mask, {inside.mean():.0%} of the picture"
    )


def phrases_of(sample: Sample, concept: Concept, given: str) -> tuple[str, ...]:
    """The phrases to detect in one picture: the given ones, else the class noun, else a relation's two things."""
    phrases = tuple(p.strip().replace("{noun}", concept.noun) for p in given.split(",") if p.strip())
    if phrases:
        return phrases
    if concept.kind == "relation":
        things = parts_of(sample.caption, concept.identifier)
        return (things.first.noun, things.second.noun)
    return (concept.noun,)


def _segment_picture(
    sample: Sample, phrases: tuple[str, ...], finder: Finder, masker: Masker | None, settings: SegmentSettings
) -> SegmentationResult:
    """Detect `phrases` in one picture and merge their masks; a missing detection gives no mask."""
    picture, name = load_picture(sample.image), sample.image.path.name
    threshold = settings.threshold or finder.threshold
    candidates = finder.find(picture, phrases, threshold)
    kept: list[Instance] = []
    for phrase in phrases:
        of_phrase = sorted((c for c in candidates if c.phrase == phrase), key=lambda c: -c.score)
        best = of_phrase[0].score if of_phrase else 0.0
        good = suppress_overlaps([c for c in of_phrase if c.score >= threshold])
        if not good:
            return SegmentationResult(
                sample, message=f'{name}: no "{phrase}" was found (best score {best:.2f}, needed {threshold:.2f})'
            )
        kept += good[:1] if settings.instances == "best" else good
    kept, notes = _with_masks(picture, suppress_overlaps(kept), masker)
    mask = clean_mask(np.logical_or.reduce([i.mask for i in kept if i.mask is not None]))
    scores = ", ".join(f"{i.phrase} {i.score:.2f}" for i in kept)
    if problem := mask_problem(mask):
        return SegmentationResult(sample, tuple(kept), message=f"{name}: {problem} ({scores})")
    return SegmentationResult(sample, tuple(kept), mask, f"{name}: {scores}; {mask.mean():.0%} of the picture{notes}")


def _with_masks(picture: Image.Image, kept: list[Instance], masker: Masker | None) -> tuple[list[Instance], str]:
    """`kept` with masks: of the masker where there is one, else of the finder."""
    if masker is None:
        if any(i.mask is None for i in kept):
            raise FewShotError(
                "this model finds boxes and cannot draw masks; put a SAM beside it (models/sams), or choose a CLIPSeg"
            )
        return kept, ""
    made = masker.masks(picture, [i.box for i in kept])
    unsure = [f"{i.phrase} {score:.2f}" for i, (_, score) in zip(kept, made, strict=True) if score < MIN_IOU_ESTIMATE]
    notes = f"; SAM is unsure of its outline ({', '.join(unsure)})" if unsure else ""
    return [replace(i, mask=mask) for i, (mask, _) in zip(kept, made, strict=True)], notes


def suppress_overlaps(instances: Sequence[Instance]) -> list[Instance]:
    """Non-maximum suppression across phrases: of boxes that overlap by more than `MAX_OVERLAP` the best one."""
    kept: list[Instance] = []
    for instance in sorted(instances, key=lambda i: -i.score):
        if all(box_iou(instance.box, other.box) <= MAX_OVERLAP for other in kept):
            kept.append(instance)
    return kept


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def _masked_samples(result: SegmentationResult, settings: SegmentSettings, cache: Path) -> list[Sample]:
    """The sample of `result` with its mask; without a detection none, or the sample without a mask."""
    if result.mask is not None:
        return [replace(result.sample, mask=stored_picture(Image.fromarray(result.mask).convert("L"), cache))]
    if result.sample.mask is not None and settings.keep:
        return [result.sample]
    if settings.missing == "stop":
        raise FewShotError(f"{result.message}; choose other words, a lower threshold, or let such pictures be left out")
    log.warning("%s; %s", result.message, "it is left out" if settings.missing == "leave out" else "it has no mask")
    return [] if settings.missing == "leave out" else [replace(result.sample, mask=None)]


def overlay(result: SegmentationResult) -> Image.Image:
    """The picture with its mask tinted and outlined in white, and its boxes drawn."""
    picture = load_picture(result.sample.image)
    thick = max(1, max(picture.size) // 200)
    if result.mask is not None:
        values = np.asarray(picture, np.float32)
        values = np.where(result.mask[..., None], 0.55 * values + 0.45 * TINT, values)
        # On a red subject the tint alone is hardly visible.
        inner = np.asarray(ndimage.binary_erosion(result.mask, iterations=thick, border_value=1), bool)
        values[result.mask & ~inner] = 255
        picture = Image.fromarray(values.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for instance in result.instances:
        left, top, right, bottom = instance.box
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=(255, 220, 0), width=thick)
    return picture
