"""Masks as models make them into masks to train with: no crumbs, no pinholes, and neither nothing nor everything."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import ndimage

SMALLEST_PART = 0.05  # of the largest part's area; smaller ones are crumbs
LARGEST_HOLE = 0.005  # of the mask's area; smaller ones are filled
CLOSING = 3  # pixels: gaps of this width are closed
LEAST, MOST = 0.01, 0.95  # of the picture's area


def cleaned(mask: np.ndarray) -> np.ndarray:
    """`mask` (H, W) bool closed over 3 pixels, without parts below 5 % of its largest and without small holes."""
    if not mask.any():
        return mask
    closed = _closed(mask)
    parts, count = _labelled(closed, np.ones((3, 3)))
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    areas[0] = 0
    kept = np.flatnonzero(areas >= SMALLEST_PART * areas.max())
    return _filled(np.isin(parts, kept[kept > 0]))


def _closed(mask: np.ndarray) -> np.ndarray:
    """Morphological closing; beyond the edge the picture goes on as it ends, so that borders do not erode."""
    pad = CLOSING
    wide = np.pad(mask, pad, mode="edge")
    return ndimage.binary_closing(wide, np.ones((CLOSING, CLOSING)))[pad:-pad, pad:-pad]


def _labelled(mask: np.ndarray, touching: np.ndarray | None = None) -> tuple[np.ndarray, int]:
    """The connected parts of `mask`, numbered from 1, and how many there are."""
    labels, count = cast("tuple[np.ndarray, int]", ndimage.label(mask, touching))
    return labels, count


def _filled(mask: np.ndarray) -> np.ndarray:
    holes, count = _labelled(~mask)
    if not count:
        return mask
    rim = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    areas = np.bincount(holes.ravel(), minlength=count + 1)
    small = [n for n in range(1, count + 1) if n not in rim and areas[n] < LARGEST_HOLE * mask.sum()]
    return mask | np.isin(holes, small)


def complaint(mask: np.ndarray) -> str:
    """Why `mask` is no use as the place of a subject; "" when it is."""
    share = float(mask.mean())
    if share == 0:
        return "the mask is empty"
    if share < LEAST:
        return f"the mask covers {share:.2%} of the picture, less than {LEAST:.0%}"
    if share > MOST:
        return f"the mask covers {share:.0%} of the picture, more than {MOST:.0%}"
    return ""
