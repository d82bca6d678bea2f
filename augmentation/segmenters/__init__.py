"""What finds a phrase in a picture, and what turns a box into a mask; one interface over the models people have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ...models.errors import FewShotError
from .. import local_models

Box = tuple[float, float, float, float]
FINDERS = ("grounding-dino", "owlv2", "florence2", "clipseg")
"""model types that find phrases, best first"""
MASKERS = ("sam2", "sam2_video", "sam")
"""model types that turn boxes into masks, best first; `segment-anything` files come after them"""
NOT_PLAIN_SAM = ("hq", "mobile", "fast", "edge")
"""words in the names of .pth files that are other networks than SAM 1.0"""


@dataclass(frozen=True)
class Instance:
    """One thing found. `box` is (left, top, right, bottom) in pixels; `mask` (H, W) bool, None where only a box is."""

    box: Box
    score: float
    phrase: str
    mask: np.ndarray | None = None


class Finder(Protocol):
    """Finds phrases."""

    threshold: float
    """the score from which an instance counts, as the model's authors set it"""

    def find(self, picture: Image.Image, phrases: Sequence[str]) -> list[Instance]:
        """All candidates for `phrases` in the RGB `picture`, also those below the threshold."""
        ...


class Masker(Protocol):
    """Turns boxes into masks."""

    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        """For each box in pixels of the RGB `picture` a mask (H, W) bool and the model's own estimate of its IoU."""
        ...


def finders(roots: Sequence[Path]) -> dict[str, Path]:
    """Models that find phrases below `roots`, best kind first."""
    return _ranked(local_models.find(roots, FINDERS), FINDERS)


def maskers(roots: Sequence[Path]) -> dict[str, Path]:
    """Models that turn boxes into masks below `roots`: folders best kind first, then SAM 1.0 files, largest first."""
    files = {
        file.relative_to(root).as_posix(): file
        for root in roots
        if root.is_dir()
        for file in sorted(root.glob("*.pth"), key=lambda file: -file.stat().st_size)
        if "sam" in file.stem.lower() and not any(word in file.stem.lower() for word in NOT_PLAIN_SAM)
    }
    return _ranked(local_models.find(roots, MASKERS), MASKERS) | files


def _ranked(found: dict[str, Path], order: Sequence[str]) -> dict[str, Path]:
    return dict(sorted(found.items(), key=lambda item: (order.index(local_models.kind_of(item[1])), item[0])))


def open_finder(folder: Path, device: torch.device) -> Finder:
    """The finder in `folder`, by the kind that its config.json names."""
    from . import clipseg, detectors, florence

    kinds = {
        "grounding-dino": detectors.GroundingDino,
        "owlv2": detectors.Owl,
        "florence2": florence.Florence,
        "clipseg": clipseg.ClipSeg,
    }
    kind = local_models.kind_of(folder)
    if kind not in kinds:
        raise FewShotError(f"{folder} holds a {kind or 'model of unknown kind'}; {', '.join(FINDERS)} find phrases")
    return kinds[kind](folder, device)


def open_masker(location: Path, device: torch.device) -> Masker:
    """The masker at `location`: a folder of a SAM or SAM 2, or a .pth file of segment-anything."""
    from . import sam

    if location.is_file():
        return sam.SegmentAnything(location, device)
    kind = local_models.kind_of(location)
    if kind not in MASKERS:
        raise FewShotError(f"{location} holds a {kind or 'model of unknown kind'}; {', '.join(MASKERS)} make masks")
    return sam.Sam(location, device) if kind == "sam" else sam.Sam2(location, device)
