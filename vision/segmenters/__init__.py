"""What finds a phrase in a picture, and what turns a box into a mask; one interface over the models people have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ...core.errors import FewShotError
from .. import find as on_disk
from .interface import Finder, Masker

if TYPE_CHECKING:
    from .clipseg import ClipSeg
    from .detectors import GroundingDino, Owl
    from .florence import Florence


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
