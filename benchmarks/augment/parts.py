"""Augmentation: accuracy of masks, speed of composites, and that no prior is sampled twice."""

from __future__ import annotations

from ..harness.rows import Parts
from . import captions, images


def parts(quick: bool) -> Parts:
    return images.parts(quick) | captions.parts(quick)
