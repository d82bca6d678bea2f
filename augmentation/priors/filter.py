"""Selects prior pictures: those that show the class, without duplicates and blank ones.

A prior that does not show the class teaches the class wrongly. Similarity to the subject is never used: selecting by it
would pull the class towards the subject, which priors are there to prevent.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.atomic import write_whole
from ...core.images import decode
from ...core.progress import NullProgress, Progress
from ...core.text.prompts import with_article
from ...vision.embedders.interface import ImageTextEmbedder
from ...vision.segmenters.interface import Finder
from ..masks.clean import clean_mask

log = logging.getLogger(__name__)
MAX_SIGMAS_BELOW = 1.0  # standard deviations below the batch's mean CLIP-T
MAX_SIMILARITY = 0.97  # cosine of two pictures' CLIP embeddings above which they count as one
MIN_AREA, MAX_AREA = 0.02, 0.90  # of the picture that the class must cover
MIN_STD = 2.0  # standard deviation of the values (0 to 255) of a picture that shows anything
BATCH = 16
NAN = float("nan")


@dataclass(frozen=True)
class Filters:
    """The models that score prior pictures; without either, only black and flat ones are rejected.

    `finder` opens a model at the first picture to score. `key` identifies the two models: scores are cached under it.
    """

    clip: ImageTextEmbedder | None = field(default=None, compare=False)
    finder: Callable[[], Finder] | None = field(default=None, compare=False)
    key: str = ""

    @property
    def oversampling(self) -> float:
        """Pictures drawn for each one required."""
        return 1.25 if self.clip is not None or self.finder is not None else 1.0


@dataclass(frozen=True)
class PriorCandidate:
    """A sampled picture with the standard deviation of its values; `reason` is set where it is unusable."""

    index: int
    path: Path
    spread: float
    reason: str = ""

    def open(self) -> Image.Image:
        return decode(self.path)[0]


def pixel_std(pixels: Image.Image) -> float:
    """The standard deviation of the values (0 to 255) over pixels, the largest of the channels'."""
    return float(np.asarray(pixels.convert("RGB"), np.float32).std((0, 1)).max())


def select_priors(
    candidates: Sequence[PriorCandidate], noun: str, count: int, filters: Filters, folder: Path,
    progress: Progress | None = None,
) -> tuple[list[int], dict[int, str]]:  # fmt: skip
    """The indices of the best `count` candidates (or fewer), in order, and why others are rejected.

    Surplus usable ones are neither. The models' scores are cached in `folder`.
    """
    reasons = {c.index: c.reason or "black or flat" for c in candidates if c.reason or c.spread < MIN_STD}
    usable = [c for c in candidates if c.index not in reasons]
    if not usable or (filters.clip is None and filters.finder is None):
        return [c.index for c in usable][:count], reasons
    scores = _score(usable, noun, filters, folder, progress or NullProgress())
    clip_t = np.array([scores.clip_t[c.index] for c in usable])
    if filters.clip is not None:
        least = float(clip_t.mean() - MAX_SIGMAS_BELOW * clip_t.std())
        reasons |= {
            c.index: f"CLIP-T {value:.3f} is below {least:.3f}"
            for c, value in zip(usable, clip_t.tolist(), strict=True)
            if value < least - 1e-9
        }
    if filters.finder is not None:
        reasons |= _missing_class(usable, noun, scores, reasons)
    reasons |= _duplicates([c for c in usable if c.index not in reasons], scores)
    left = [c.index for c in usable if c.index not in reasons]
    best = sorted(left, key=lambda index: -scores.clip_t[index]) if filters.clip is not None else left
    return sorted(best[:count]), reasons


def _missing_class(
    usable: Sequence[PriorCandidate], noun: str, scores: _Scores, rejected: Mapping[int, str]
) -> dict[int, str]:
    """Pictures without the class, or with too little or too much of it."""
    reasons = {}
    for candidate in usable:
        area = scores.area[candidate.index]
        if candidate.index not in rejected and not MIN_AREA <= area <= MAX_AREA:
            reasons[candidate.index] = f"no {noun} is found" if area == 0 else f"{noun} covers {area:.0%} of it"
    return reasons


def _duplicates(usable: Sequence[PriorCandidate], scores: _Scores) -> dict[int, str]:
    """Near-duplicates, of which the first is kept."""
    reasons: dict[int, str] = {}
    kept: list[int] = []
    for candidate in usable:
        own = scores.embeddings.get(candidate.index)
        duplicate = next(
            (i for i in kept if own is not None and float(own @ scores.embeddings[i]) > MAX_SIMILARITY), None
        )
        if duplicate is None:
            kept.append(candidate.index)
        else:
            reasons[candidate.index] = f"looks as picture {duplicate} does"
    return reasons


# ---------------------------------------------------------------------------------------------------------- scores


@dataclass
class _Scores:
    """By the pictures' index: CLIP-T, the CLIP embedding (D,), and the area in [0, 1] of the class; NaN is unknown."""

    clip_t: dict[int, float] = field(default_factory=dict)
    embeddings: dict[int, np.ndarray] = field(default_factory=dict)
    area: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Scores:
        try:
            with np.load(path) as file:
                numbers = file["index"].tolist()
                embeddings = dict(zip(numbers, file["looks"], strict=True)) if file["looks"].size else {}
                clip_t, area = (dict(zip(numbers, file[name].tolist(), strict=True)) for name in ("fit", "area"))
                return cls(clip_t, embeddings, area)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning("priors: %s is not usable and is made again (%s)", path, error)
            return cls()

    def write(self, path: Path) -> None:
        numbers = sorted(self.clip_t)
        data = io.BytesIO()
        np.savez(
            data, index=np.array(numbers, np.int64), fit=np.array([self.clip_t[i] for i in numbers]),
            area=np.array([self.area[i] for i in numbers]),
            looks=np.array([self.embeddings[i] for i in numbers if i in self.embeddings], np.float32),
        )  # fmt: skip
        write_whole(path, data.getvalue())


def _score(usable: Sequence[PriorCandidate], noun: str, filters: Filters, folder: Path, progress: Progress) -> _Scores:
    """The models' scores of the candidates, from the cache in `folder` where they are there."""
    path = folder / f"seen_{filters.key or 'models'}.npz"
    scores = _Scores.read(path)
    new = [candidate for candidate in usable if candidate.index not in scores.clip_t]
    finder = filters.finder() if new and filters.finder is not None else None
    for start in range(0, len(new), BATCH):
        progress.check()
        part = new[start : start + BATCH]
        pictures = [candidate.open() for candidate in part]
        clip_t, embeddings = [NAN] * len(part), None
        if filters.clip is not None:
            embeddings = np.asarray(filters.clip.images(pictures), np.float32)
            clip_t = (embeddings @ np.asarray(filters.clip.texts([f"a photo of {with_article(noun)}"]))[0]).tolist()
        for number, (candidate, picture) in enumerate(zip(part, pictures, strict=True)):
            scores.clip_t[candidate.index] = clip_t[number]
            scores.area[candidate.index] = NAN if finder is None else _area(picture, noun, finder)
            if embeddings is not None:
                scores.embeddings[candidate.index] = embeddings[number]
        progress.report(start + len(part), len(new), f"looking at prior {start + len(part)} of {len(new)}")
    if new:
        scores.write(path)
    return scores


def _area(picture: Image.Image, noun: str, finder: Finder) -> float:
    """The share of the picture that the best detection of the class covers; 0 without one."""
    detections = [i for i in finder.find(picture, [noun], finder.threshold) if i.score >= finder.threshold]
    if not detections:
        return 0.0
    best = max(detections, key=lambda instance: instance.score)
    if best.mask is not None:
        return float(clean_mask(best.mask).mean())
    left, top, right, bottom = best.box
    return (right - left) * (bottom - top) / (picture.width * picture.height)
