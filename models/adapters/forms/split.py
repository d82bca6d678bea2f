"""Layers that files have in parts and ComfyUI's networks as one: queries, keys and values of Z-Image's attention."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ....core.errors import FewShotError
from ....core.values import Factor, LowRank

PARTS, WHOLE = ("to_q", "to_k", "to_v"), "qkv"
RENAMED = {"to_out.0": "out"}
FAMILIES = ("z_image",)


def fused(factors: Mapping[str, Factor], family: str) -> dict[str, Factor]:
    """The factors by the network's own layers; exact, at the sum of the parts' ranks.

    Raises:
        FewShotError: a part is no plain low-rank pair.
    """
    if family not in FAMILIES:
        return dict(factors)
    found: dict[str, Factor] = {}
    for path, factor in factors.items():
        layer, part = next(
            ((path.removesuffix(f".{one}"), one) for one in PARTS if path.endswith(f".{one}")), (path, "")
        )
        if part:
            found.setdefault(f"{layer}.{WHOLE}", _whole(layer, factors))
            continue
        end = next((one for one in RENAMED if path.endswith(f".{one}")), "")
        found[f"{path.removesuffix(end)}{RENAMED[end]}" if end else path] = factor
    return found


def _whole(layer: str, factors: Mapping[str, Factor]) -> LowRank:
    """One pair whose `up` has a block a part; parts that are missing change nothing."""
    given = [factors.get(f"{layer}.{part}") for part in PARTS]
    pairs = [one if isinstance(one, LowRank) and one.mid is None else None for one in given]
    if any(one is not None and pair is None for one, pair in zip(given, pairs, strict=True)):
        raise FewShotError(
            f"{layer} is in parts ({', '.join(PARTS)}) of a form that cannot be put together: use a LoRA"
        )
    there = [pair for pair in pairs if pair is not None]
    height = there[0].up.shape[0]
    if any(pair.up.shape[0] != height for pair in there):
        raise FewShotError(f"the parts of {layer} ({', '.join(PARTS)}) are of different sizes: the file is damaged")
    ranks = [0 if pair is None else pair.rank for pair in pairs]
    up = torch.zeros(len(PARTS) * height, sum(ranks))
    for i, pair in enumerate(pairs):
        if pair is not None:
            first = sum(ranks[:i])
            up[i * height : (i + 1) * height, first : first + pair.rank] = pair.up * (pair.alpha / pair.rank)
    return LowRank(up, torch.cat([pair.down for pair in there]), float(sum(ranks)))
