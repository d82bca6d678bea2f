"""Which prior pictures are kept: those that show the class, each another picture, none black.

A prior that does not show the class teaches the class wrongly. Likeness to the subject is never asked: choosing by it
would draw the class towards the subject, which priors are there to prevent.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ...core.images import write_bytes
from ...core.progress import Silent, Watcher
from ...core.prompts import with_article
from ...vision.segmenters.interface import Finder
from ..masks.clean import cleaned

log = logging.getLogger(__name__)
SIGMAS = 1.0  # below the batch's mean CLIP-T a picture is rejected
SAME = 0.97  # cosine of two pictures' CLIP embeddings above which they count as one
LEAST_AREA, MOST_AREA = 0.02, 0.90  # of the picture that the class must cover
LEAST_SPREAD = 2.0  # standard deviation of the values (0 to 255) of a picture that shows anything
AT_ONCE = 16
NAN = float("nan")


class Eyes(Protocol):
    """A CLIP: unit embeddings (n, D) of pictures and of texts."""

    def images(self, images: Sequence[Image.Image]) -> Any: ...

    def texts(self, texts: Sequence[str]) -> Any: ...


@dataclass(frozen=True)
class Filters:
    """What looks at prior pictures; without either, only black and flat ones are rejected.

    `finder` opens a model when there is something to look at. `key` names the two models: what they saw in a picture
    is kept under it and not computed again.
    """

    clip: Eyes | None = field(default=None, compare=False)
    finder: Callable[[], Finder] | None = field(default=None, compare=False)
    key: str = ""

    @property
    def spare(self) -> float:
        """How many pictures are drawn for each that is wanted."""
        return 1.25 if self.clip is not None or self.finder is not None else 1.0


@dataclass(frozen=True)
class Candidate:
    """A picture that was drawn, with the standard deviation of its values; `reason` is set where it is of no use."""

    index: int
    path: Path
    spread: float
    reason: str = ""

    def open(self) -> Image.Image:
        with Image.open(self.path) as file:
            return file.convert("RGB")


def spread_of(pixels: Image.Image) -> float:
    """The standard deviation of the values (0 to 255) over pixels, the largest of the channels'."""
    return float(np.asarray(pixels.convert("RGB"), np.float32).std((0, 1)).max())


def chosen(
    candidates: Sequence[Candidate], noun: str, count: int, filters: Filters, folder: Path,
    watcher: Watcher | None = None,
) -> tuple[list[int], dict[int, str]]:  # fmt: skip
    """The indices of the best `count` candidates (or fewer), in order, and why others are rejected.

    What is good but too much is neither. What the models see is kept in `folder`.
    """
    reasons = {c.index: c.reason or "black or flat" for c in candidates if c.reason or c.spread < LEAST_SPREAD}
    good = [c for c in candidates if c.index not in reasons]
    if not good or (filters.clip is None and filters.finder is None):
        return [c.index for c in good][:count], reasons
    seen = _seen(good, noun, filters, folder, watcher or Silent())
    fit = np.array([seen.fit[c.index] for c in good])
    if filters.clip is not None:
        least = float(fit.mean() - SIGMAS * fit.std())
        reasons |= {
            c.index: f"CLIP-T {value:.3f} is below {least:.3f}"
            for c, value in zip(good, fit.tolist(), strict=True)
            if value < least - 1e-9
        }
    if filters.finder is not None:
        reasons |= _unseen(good, noun, seen, reasons)
    reasons |= _repeated([c for c in good if c.index not in reasons], seen)
    left = [c.index for c in good if c.index not in reasons]
    best = sorted(left, key=lambda index: -seen.fit[index]) if filters.clip is not None else left
    return sorted(best[:count]), reasons


def _unseen(good: Sequence[Candidate], noun: str, seen: _Seen, reasons: Mapping[int, str]) -> dict[int, str]:
    found = {}
    for candidate in good:
        area = seen.area[candidate.index]
        if candidate.index not in reasons and not LEAST_AREA <= area <= MOST_AREA:
            found[candidate.index] = f"no {noun} is found" if area == 0 else f"{noun} covers {area:.0%} of it"
    return found


def _repeated(good: Sequence[Candidate], seen: _Seen) -> dict[int, str]:
    """Of pictures that look the same the first is kept."""
    found: dict[int, str] = {}
    kept: list[int] = []
    for candidate in good:
        own = seen.looks.get(candidate.index)
        twin = next((i for i in kept if own is not None and float(own @ seen.looks[i]) > SAME), None)
        if twin is None:
            kept.append(candidate.index)
        else:
            found[candidate.index] = f"looks as picture {twin} does"
    return found


# ------------------------------------------------------------------------------------------------ what models saw


@dataclass
class _Seen:
    """By the pictures' index: CLIP-T, the CLIP embedding (D,), and the area in [0, 1] of the class; NaN is unknown."""

    fit: dict[int, float] = field(default_factory=dict)
    looks: dict[int, np.ndarray] = field(default_factory=dict)
    area: dict[int, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Seen:
        try:
            with np.load(path) as file:
                numbers = file["index"].tolist()
                looks = dict(zip(numbers, file["looks"], strict=True)) if file["looks"].size else {}
                fit, area = (dict(zip(numbers, file[name].tolist(), strict=True)) for name in ("fit", "area"))
                return cls(fit, looks, area)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, EOFError) as error:
            log.warning("priors: %s is not usable and is made again (%s)", path, error)
            return cls()

    def write(self, path: Path) -> None:
        numbers = sorted(self.fit)
        data = io.BytesIO()
        np.savez(
            data, index=np.array(numbers, np.int64), fit=np.array([self.fit[i] for i in numbers]),
            area=np.array([self.area[i] for i in numbers]),
            looks=np.array([self.looks[i] for i in numbers if i in self.looks], np.float32),
        )  # fmt: skip
        write_bytes(data.getvalue(), path)


def _seen(good: Sequence[Candidate], noun: str, filters: Filters, folder: Path, watcher: Watcher) -> _Seen:
    """What the models see in the candidates, from `folder` where they saw it before."""
    path = folder / f"seen_{filters.key or 'models'}.npz"
    seen = _Seen.read(path)
    new = [candidate for candidate in good if candidate.index not in seen.fit]
    finder = filters.finder() if new and filters.finder is not None else None
    for start in range(0, len(new), AT_ONCE):
        watcher.check()
        part = new[start : start + AT_ONCE]
        pictures = [candidate.open() for candidate in part]
        fits, looks = [NAN] * len(part), None
        if filters.clip is not None:
            looks = np.asarray(filters.clip.images(pictures), np.float32)
            fits = (looks @ np.asarray(filters.clip.texts([f"a photo of {with_article(noun)}"]))[0]).tolist()
        for number, (candidate, picture) in enumerate(zip(part, pictures, strict=True)):
            seen.fit[candidate.index] = fits[number]
            seen.area[candidate.index] = NAN if finder is None else _area(picture, noun, finder)
            if looks is not None:
                seen.looks[candidate.index] = looks[number]
        watcher.progress(start + len(part), len(new), f"looking at prior {start + len(part)} of {len(new)}")
    if new:
        seen.write(path)
    return seen


def _area(picture: Image.Image, noun: str, finder: Finder) -> float:
    """The share of the picture that the best find of the class covers; 0 without one."""
    found = [i for i in finder.find(picture, [noun], finder.threshold) if i.score >= finder.threshold]
    if not found:
        return 0.0
    best = max(found, key=lambda instance: instance.score)
    if best.mask is not None:
        return float(cleaned(best.mask).mean())
    left, top, right, bottom = best.box
    return (right - left) * (bottom - top) / (picture.width * picture.height)
