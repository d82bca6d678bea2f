"""Where the subject is in a picture: the mask of the best thing that a finder names so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from PIL import Image


class Finder(Protocol):
    """What finds phrases; see `augmentation.segmenters.Finder`."""

    threshold: float

    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> Sequence[Any]: ...


class Masker(Protocol):
    """What outlines boxes; see `augmentation.segmenters.Masker`."""

    def masks(self, picture: Image.Image, boxes: Sequence[Any]) -> Sequence[tuple[np.ndarray, float]]: ...


class Cutter:
    """Finds a subject by its noun. The masker draws the outline; without one the finder's own mask counts.

    Of a finder that gives boxes alone the whole box counts then, and with it the ground in it: `name`, which is what
    reports call the cutter, says so as soon as that has happened.
    """

    def __init__(self, finder: Finder, masker: Masker | None, noun: str, name: str):
        self.finder, self.masker, self.noun = finder, masker, noun
        self._name, self.boxed = name, False

    @property
    def name(self) -> str:
        return f"{self._name}, box crop" if self.boxed else self._name

    def __call__(self, picture: Image.Image) -> Image.Image | None:
        """The mask (mode L, white on the subject) of the best find; None where there is none."""
        picture = picture.convert("RGB")
        found = self.finder.find(picture, [self.noun], self.finder.threshold)
        there = [one for one in found if one.score >= self.finder.threshold]
        if not there:
            return None
        best = max(there, key=lambda one: one.score)
        if self.masker is not None:
            mask = self.masker.masks(picture, [best.box])[0][0]
        elif best.mask is not None:
            mask = best.mask
        else:
            self.boxed, mask = True, box_mask(picture.size, best.box)
        return Image.fromarray((np.asarray(mask) * 255).astype(np.uint8))


def box_mask(size: tuple[int, int], box: Sequence[float]) -> np.ndarray:
    """(H, W) bool of a picture of `size` (w, h), white in the box (left, top, right, bottom)."""
    mask = np.zeros((size[1], size[0]), bool)
    left, top, right, bottom = (max(0, round(value)) for value in box)
    mask[top:bottom, left:right] = True
    return mask
