"""Which way round a MASK from the graph is meant.

This pack's masks are white on the subject. ComfyUI makes masks of transparency the other way round, white where a file
is transparent; and what is painted in its mask editor comes by the same socket, white where it was painted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Nodes that make a mask of transparency, and the output that it comes from
TRANSPARENCY = {"LoadImage": 1, "LoadImageOutput": 1, "LoadImageMask": 0, "SplitImageWithAlpha": 1}
PAINTED = "clipspace/"  # the folder that the mask editor writes to
EDGE, MIDDLE = 0.5, 0.25  # shares of white that make a mask look like one of the background
TURNED = (
    "the MASK of {node} is white where the picture is transparent; it was inverted, so that it is white on the subject"
)
ON_WHITE = ", and the subject lies on white"
HOLE = (
    "{name}: the MASK of {node} is white where the picture is transparent, here inside of it; that was taken for the "
    "subject. If it is the background, put Invert Mask between"
)
LOOKS_INVERTED = (
    "{name}: the mask is white along the picture's edges and black in its middle. White must be on the subject: if it "
    "is on the background, put Invert Mask between"
)


@dataclass(frozen=True)
class MaskSource:
    """The node that made a mask of transparency, and whether the picture is of the same file."""

    node: str
    painted: bool
    same_picture: bool


def source_of(hidden: Any, masks: str, images: str = "") -> MaskSource | None:
    """What is linked to the input `masks` of the node that runs, if it is transparency; `images` is its other input."""
    graph = hidden.dynprompt
    inputs = graph.get_node(hidden.unique_id)["inputs"]
    link = inputs.get(masks)
    if not isinstance(link, list):
        return None
    node = graph.get_node(link[0])
    kind, given = node["class_type"], node["inputs"]
    if TRANSPARENCY.get(kind) != link[1] or given.get("channel", "alpha") != "alpha":
        return None
    picture = inputs.get(images)
    same = isinstance(picture, list) and picture[0] == link[0]
    return MaskSource(kind, str(given.get("image", "")).replace("\\", "/").startswith(PAINTED), same)


def upright(masks: list[torch.Tensor], source: MaskSource | None, notes: list[str]) -> list[torch.Tensor]:
    """Masks (B, h, w), white on the subject; what was inverted, and what looks as if it should be, goes to `notes`.

    Transparency that reaches a picture's edge is its background. A mask without any white is none and stays so.
    """
    found, number = [], 0
    for batch in masks:
        singles = []
        for mask in batch if batch.dim() == 3 else batch[None]:
            number += 1
            singles.append(_upright(mask, f"picture {number}", source, notes))
        found.append(_stack(singles, batch))
    return found


def on_white(images: list[torch.Tensor], before: list[torch.Tensor], after: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pictures (B, H, W, C) with white under what was transparent, where masks were inverted."""
    laid = []
    for number, image in enumerate(images):
        pair = (before[number], after[number]) if number < len(before) else (None, None)
        turned = pair[1] is not None and pair[1].shape == image.shape[:3] and not pair[1].equal(pair[0])
        if turned:
            alpha = pair[1][..., None].to(image)
            image = image[..., :3] * alpha + (1 - alpha)
        laid.append(image)
    return laid


def _upright(mask: torch.Tensor, name: str, source: MaskSource | None, notes: list[str]) -> torch.Tensor:
    white = mask > 0.5
    if not white.any():
        return mask
    edge = float(_edge(white).float().mean())
    if source is not None and not source.painted:
        if edge > 0:
            note = TURNED.format(node=source.node) + (ON_WHITE if source.same_picture else "")
            if note not in notes:
                notes.append(note)
            return 1 - mask
        notes.append(HOLE.format(name=name, node=source.node))
        return mask
    height, width = mask.shape
    middle = white[height // 3 : height - height // 3, width // 3 : width - width // 3]
    if edge >= EDGE and float(middle.float().mean()) <= MIDDLE:
        notes.append(LOOKS_INVERTED.format(name=name))
    return mask


def _edge(mask: torch.Tensor) -> torch.Tensor:
    """The values of a mask (h, w) along its four sides."""
    import torch

    return torch.cat([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])


def _stack(singles: list[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.stack(singles) if like.dim() == 3 else singles[0]
