"""The protocols of finders and maskers, whichever model is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Instance:
    """A detection. `box` is (left, top, right, bottom) in pixels; `mask` (H, W) bool, None from box detectors."""

    box: Box
    score: float
    phrase: str
    mask: np.ndarray | None = None


class Finder(Protocol):
    """Finds phrases."""

    # The detection score that the model's authors recommend.
    threshold: float

    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        """All candidates for `phrases` in the RGB `picture`, also those whose score is below `threshold`.

        Where a model gives a heatmap, the mask is its region above `threshold`.
        """
        ...


class Masker(Protocol):
    """Turns boxes into masks."""

    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        """For each box in pixels of the RGB `picture` a mask (H, W) bool and the model's own estimate of its IoU."""
        ...
