"""Factors of any form on the weight that they change, in float32 and by ComfyUI's arithmetic.

    DoRA (Liu et al. 2024): the length of each row (or column) is set after the difference is added
    GLoRA (Chavan et al. 2023): W + W A + B
    OFT (Qiu et al. 2023), BOFT (Liu et al. 2024): R W with rotations R = (I + Q)(I - Q)^-1, Q skew-symmetric

Where ComfyUI differs from the papers (lengths are divided by those of the base's rows, a strength counts twice for
rotations) it is followed: files are used there, and an adapter must do the same here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .complete import DORA
from .products import covers, product, same_shape, strength_of


def changed(weight: Tensor, tensors: Mapping[str, Tensor], strength: float) -> Tensor:
    """`weight` (float32) with a complete form on it at a strength. Raises RuntimeError where the two do not fit."""
    own = {name: value.to(weight.device, torch.float32) for name, value in tensors.items()}
    if "set_weight" in own:
        return _replaced(weight, own["set_weight"]) if strength else weight
    if "oft_blocks" in own:
        return weight + strength * _turned(weight, own, _limit(tensors), strength)
    if "a1.weight" in own:
        change, scale = _glora(weight, own)
        scale = float(tensors["alpha"]) / scale if "alpha" in tensors else 1.0
    else:
        change, scale = _shaped(product(own), weight), strength_of(tensors)
    if DORA in own:
        return _decomposed(weight, scale * change, own[DORA], strength)
    return weight + (strength * scale) * change


def _shaped(change: Tensor, weight: Tensor) -> Tensor:
    if not covers(change.shape, weight.shape):
        raise RuntimeError(f"{tuple(change.shape)} does not fit {tuple(weight.shape)}")
    return change.reshape(weight.shape)


def _replaced(weight: Tensor, own: Tensor) -> Tensor:
    if not same_shape(own.shape, weight.shape):
        raise RuntimeError(f"{tuple(own.shape)} does not fit {tuple(weight.shape)}")
    return own.reshape(weight.shape)


def _decomposed(weight: Tensor, change: Tensor, lengths: Tensor, strength: float) -> Tensor:
    """DoRA's weight: lengths (out, 1, ...) of rows, divided by the base's, or (1, in, ...) of columns."""
    if lengths.numel() not in weight.shape[:2]:
        raise RuntimeError(f"the lengths {tuple(lengths.shape)} are of neither rows nor columns")
    moved = weight + change
    if lengths.shape[0] == weight.shape[0]:
        norm = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
    else:
        norm = moved.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *[1] * (weight.dim() - 2))
    moved = moved * (lengths / (norm + torch.finfo(weight.dtype).eps))
    return moved if strength == 1 else weight + strength * (moved - weight)


def _glora(weight: Tensor, own: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """W A + B and the rank. Old files hold A = a2 a1 and B = b2 b1, later ones A = a1 a2 and B = b1 b2."""
    a1, a2, b1, b2 = (own[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if not old and not new:
        raise RuntimeError("the parts of a GLoRA do not fit each other")
    square = weight.shape[0] == weight.shape[1] == a2.shape[0]
    old = old and (not new or square)
    rank = a1.shape[0] if old else a2.shape[0]
    a1, a2, b1, b2 = (part.flatten(1) for part in (a1, a2, b1, b2))
    if old:
        return _shaped(b2 @ b1 + weight.flatten(1) @ a2 @ a1, weight), rank
    through = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
    return through + _shaped(b1 @ b2, weight), rank


def _limit(tensors: Mapping[str, Tensor]) -> float:
    """The largest norm of Q, which rotations keep as their alpha; 0 for none."""
    return float(tensors["alpha"]) if "alpha" in tensors else 0.0


def _rotations(blocks: Tensor, limit: float) -> Tensor:
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        skew = skew * (limit / (torch.linalg.vector_norm(skew) + 1e-8)).clamp(max=1)
    unit = torch.eye(blocks.shape[-1], device=blocks.device)
    return (unit + skew) @ torch.linalg.inv(unit - skew)


def _turned(weight: Tensor, own: Mapping[str, Tensor], limit: float, strength: float) -> Tensor:
    """R W - W: of OFT (blocks, b, b) one rotation, of BOFT (m, blocks, b, b) m butterflies and a scale of each row."""
    blocks = own["oft_blocks"]
    turns = _rotations(blocks, limit)
    unit = torch.eye(blocks.shape[-1], device=weight.device)
    if blocks.dim() == 3:
        rows = weight.reshape(*blocks.shape[:2], *weight.shape[1:])
        return torch.einsum("knm,kn...->km...", strength * (turns - unit), rows).reshape(weight.shape)
    turned, half = weight, blocks.shape[-1] // 2
    for level, turn in enumerate(turns):
        reach = 2**level * half
        turn = strength * turn + (1 - strength) * unit
        turned = turned.unflatten(0, (-1, 2, reach)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, blocks.shape[-1]))
        turned = torch.einsum("bij,bj...->bi...", turn, turned).flatten(0, 1)
        turned = turned.unflatten(0, (-1, reach, 2)).transpose(1, 2).flatten(0, 2)
    return _shaped(turned * own.get("rescale", torch.ones((), device=weight.device)), weight) - weight
