"""What finds a phrase in a picture, and what turns a box into a mask; one interface over the models people have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from PIL import Image

from ...models.errors import FewShotError
from .. import on_disk

if TYPE_CHECKING:
    from .clipseg import ClipSeg
    from .detectors import GroundingDino, Owl
    from .florence import Florence

Box = tuple[float, float, float, float]


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

    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        """All candidates for `phrases` in the RGB `picture`, also those whose score is below `threshold`.

        Where a model gives a map of likelihood, the mask is what lies above `threshold`.
        """
        ...


class Masker(Protocol):
    """Turns boxes into masks."""

    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        """For each box in pixels of the RGB `picture` a mask (H, W) bool and the model's own estimate of its IoU."""
        ...


def finder_class(folder: Path) -> type[ClipSeg | GroundingDino | Owl | Florence]:
    """The class of the finder in `folder`, by the kind that its config.json names; it has the model's `threshold`."""
    from . import clipseg, detectors, florence

    kinds = {
        "grounding-dino": detectors.GroundingDino,
        "owlv2": detectors.Owl,
        "florence2": florence.Florence,
        "clipseg": clipseg.ClipSeg,
    }
    kind = on_disk.kind_of(folder)
    if kind not in kinds:
        raise FewShotError(
            f"{folder} holds a {kind or 'model of unknown kind'}; {', '.join(on_disk.FINDERS)} find phrases"
        )
    return kinds[kind]


def open_finder(folder: Path, device: torch.device) -> Finder:
    """The finder in `folder`."""
    return finder_class(folder)(folder, device)


def open_masker(location: Path, device: torch.device) -> Masker:
    """The masker at `location`: a folder of a SAM or SAM 2, or a .pth file of segment-anything."""
    from . import sam

    if location.is_file():
        return sam.SegmentAnything(location, device)
    kind = on_disk.kind_of(location)
    if kind not in on_disk.MASKERS:
        raise FewShotError(
            f"{location} holds a {kind or 'model of unknown kind'}; {', '.join(on_disk.MASKERS)} make masks"
        )
    return sam.Sam(location, device) if kind == "sam" else sam.Sam2(location, device)
