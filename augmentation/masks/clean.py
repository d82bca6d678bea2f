"""Cleans masks of models for training: no crumbs, no pinholes, neither empty nor full."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import ndimage

MIN_PART_AREA = 0.05  # of the largest part's area; smaller ones are crumbs
MAX_HOLE_AREA = 0.005  # of the mask's area; smaller ones are filled
CLOSING = 3  # pixels: gaps of this width are closed
MIN_AREA, MAX_AREA = 0.01, 0.95  # of the picture's area


def clean_mask(mask: np.ndarray) -> np.ndarray:
    """`mask` (H, W) bool closed over 3 pixels, without parts below 5 % of its largest and without small holes."""
    if not mask.any():
        return mask
    closed = _close(mask)
    parts, count = _label(closed, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    areas[0] = 0
    kept = np.flatnonzero(areas >= MIN_PART_AREA * areas.max())
    return _fill_holes(np.isin(parts, kept[kept > 0]))


def _close(mask: np.ndarray) -> np.ndarray:
    """Morphological closing; the edge is padded with its own values, so that borders do not erode."""
    pad = CLOSING
    wide = np.pad(mask, pad, mode="edge")
    return ndimage.binary_closing(wide, np.ones((CLOSING, CLOSING)))[pad:-pad, pad:-pad]


def _label(mask: np.ndarray, touching: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """The connected parts of `mask`, numbered from 1, and how many there are."""
    labels, count = cast("tuple[np.ndarray, int]", ndimage.label(mask, touching))
    return labels, count


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    holes, count = _label(~mask)
    if not count:
        return mask
    rim = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    areas = np.bincount(holes.ravel(), minlength=count + 1)
    small = [n for n in range(1, count + 1) if n not in rim and areas[n] < MAX_HOLE_AREA * mask.sum()]
    return mask | np.isin(holes, small)


def mask_problem(mask: np.ndarray) -> str:
    """Why `mask` is unusable as a subject's mask; "" when it is usable."""
    share = float(mask.mean())
    if share == 0:
        return "the mask is empty"
    if share < MIN_AREA:
        return f"the mask covers {share:.2%} of the picture, less than {MIN_AREA:.0%}"
    if share > MAX_AREA:
        return f"the mask covers {share:.0%} of the picture, more than {MAX_AREA:.0%}"
    return ""
