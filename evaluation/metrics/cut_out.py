"""The subject's mask in a picture: that of the best detection of its noun."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...vision.segmenters.interface import Finder, Masker


class SubjectSegmenter:
    """Detects a subject by its noun. The masker segments it; without one the finder's own mask is used.

    Without either the mask is the detection's box, background included; `name`, by which reports call the segmenter,
    then says so.
    """

    def __init__(self, finder: Finder, masker: Masker | None, noun: str, name: str):
        self.finder, self.masker, self.noun = finder, masker, noun
        self._name, self.boxed = name, False

    @property
    def name(self) -> str:
        return f"{self._name}, box crop" if self.boxed else self._name

    def __call__(self, picture: Image.Image) -> Image.Image | None:
        """The mask (mode L, white on the subject) of the best detection; None where there is none."""
        picture = picture.convert("RGB")
        instances = self.finder.find(picture, [self.noun], self.finder.threshold)
        instances = [instance for instance in instances if instance.score >= self.finder.threshold]
        if not instances:
            return None
        best = max(instances, key=lambda instance: instance.score)
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
