"""Finders (phrase to boxes or masks) and maskers (box to mask); one interface over the usual models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...core.errors import FewShotError
from ..find import FINDERS, MASKERS, kind_of
from .interface import Finder, Masker

if TYPE_CHECKING:
    from .clipseg import ClipSeg
    from .detectors import GroundingDino, Owl
    from .florence import FlorenceSegmenter


def finder_class(folder: Path) -> type[ClipSeg | GroundingDino | Owl | FlorenceSegmenter]:
    """The class of the finder in `folder`, by the kind that its config.json names; it has the model's `threshold`."""
    from . import clipseg, detectors, florence

    kinds = {
        "grounding-dino": detectors.GroundingDino,
        "owlv2": detectors.Owl,
        "florence2": florence.FlorenceSegmenter,
        "clipseg": clipseg.ClipSeg,
    }
    kind = kind_of(folder)
    if kind not in kinds:
        raise FewShotError(f"{folder} holds a {kind or 'model of unknown kind'}; {', '.join(FINDERS)} find phrases")
    return kinds[kind]


def open_finder(folder: Path, device: torch.device) -> Finder:
    """The finder in `folder`."""
    return finder_class(folder)(folder, device)


def open_masker(location: Path, device: torch.device) -> Masker:
    """The masker at `location`: a folder of a SAM or SAM 2, or a .pth file of segment-anything."""
    from . import sam

    if location.is_file():
        return sam.SegmentAnything(location, device)
    kind = kind_of(location)
    if kind not in MASKERS:
        raise FewShotError(f"{location} holds a {kind or 'model of unknown kind'}; {', '.join(MASKERS)} make masks")
    return sam.Sam(location, device) if kind == "sam" else sam.Sam2(location, device)
