"""Differences that are products of small factors, whatever weight they are added to.

    LoRA: (alpha / rank) B A (Hu et al. 2021)
    LoHa: (alpha / rank) (A1 B1) * (A2 B2), multiplied element by element (Hyeon-Woo et al. 2022, FedPara)
    LoKr: (alpha / rank) W1 (x) W2, Kronecker's product; each whole, or the product A B of a low-rank pair

In a convolution's CP form a small kernel stands between the two of a pair (Yeh et al. 2023, LyCORIS). Names are those
of the files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .complete import DORA


def product(own: Mapping[str, Tensor]) -> Tensor:
    """The product of a LoRA, LoHa or LoKr without its strength: (out, in), or (out, in, kh, kw) with a kernel."""
    if "lora_up.weight" in own:
        pair = own["lora_up.weight"], own["lora_down.weight"], own.get("lora_mid.weight")
        shape = pair_shape(*pair)
        if shape is None:
            raise RuntimeError("the parts of a low-rank pair do not fit each other")
        return pair_product(*pair).reshape(shape)
    if "hada_w1_a" in own:
        first, second = (_pair(own[f"hada_w{n}_a"], own[f"hada_w{n}_b"], own.get(f"hada_t{n}")) for n in (1, 2))
        return first * second
    first, second = (_side(own, side) for side in ("w1", "w2"))
    if second.dim() == 4:
        first = first[:, :, None, None]
    return torch.kron(first.contiguous(), second.contiguous())


def pair_product(up: Tensor, down: Tensor, mid: Tensor | None) -> Tensor:
    """B A of a low-rank pair, flat (out, in * kh * kw); with `mid` its CP form: 1x1 down, a small kernel, 1x1 up."""
    up, down = up.flatten(1), down.flatten(1)
    if mid is None:
        return up @ down
    return torch.einsum("or,rskl,si->oikl", up, mid, down)


def pair_shape(up: Tensor, down: Tensor, mid: Tensor | None) -> tuple[int, ...] | None:
    """The shape of a low-rank pair's product by what its parts say; None where they do not fit each other."""
    whole = min(up.dim(), down.dim()) >= 2 and up.shape[1] == down.shape[0] >= 1 and up.shape[2:].numel() == 1
    if not whole or mid is None:
        return (up.shape[0], *down.shape[1:]) if whole else None
    fitting = mid.dim() == 4 and mid.shape[0] == mid.shape[1] == down.shape[0] and down.shape[2:].numel() == 1
    return (up.shape[0], down.shape[1], *mid.shape[2:]) if fitting else None


def covers(shape: Sequence[int], weight: Sequence[int]) -> bool:
    """Whether a product of `shape` is one of each of a weight's numbers: of its shape, or flat (out, in * kh * kw)."""
    flat = (weight[0], math.prod(weight[1:]))
    return same_shape(shape, weight) or same_shape(shape, flat)


def same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are alike but for 1s at their ends: a linear layer may be kept as a 1x1 convolution."""
    return _without_ones(one) == _without_ones(other)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    length = max((number for number, size in enumerate(shape, 1) if size != 1), default=0)
    return tuple(shape[:length])


def strength_of(tensors: Mapping[str, Tensor]) -> float:
    """alpha / rank; 1 without alpha. A LoKr of two whole factors has no rank and no strength of its own."""
    ranked = ("lora_down.weight", "hada_w1_b", *(f"lokr_{side}_b" for side in ("w2", "w1")))
    rank = next((len(tensors[name]) for name in ranked if name in tensors), None)
    return 1.0 if rank is None or "alpha" not in tensors else float(tensors["alpha"]) / rank


def has_effect(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a product is not all zeros; of a form that is no product it is taken to be."""
    products = ("hada_w1_a", "lokr_w1", "lokr_w1_a")
    if DORA in tensors or not any(name in tensors for name in products):
        return True
    return bool(strength_of(tensors)) and bool(product({n: t.float() for n, t in tensors.items()}).any())


def input_width(tensors: Mapping[str, Tensor]) -> int | None:
    """The input width of a layer with such a difference; None for other forms."""
    for name in ("lora_down.weight", "hada_w1_b"):
        if name in tensors:
            return tensors[name].flatten(1).shape[1]
    parts = (tensors.get(f"lokr_{side}", tensors.get(f"lokr_{side}_b")) for side in ("w1", "w2"))
    widths = [part.shape[1] for part in parts if part is not None]
    return widths[0] * widths[1] if len(widths) == 2 else None


def _side(own: Mapping[str, Tensor], side: str) -> Tensor:
    whole = own.get(f"lokr_{side}")
    if whole is not None:
        return whole
    return _pair(own[f"lokr_{side}_a"], own[f"lokr_{side}_b"], own.get("lokr_t2") if side == "w2" else None)


def _pair(a: Tensor, b: Tensor, kernel: Tensor | None) -> Tensor:
    """A B; with a kernel (r, s, kh, kw) the pair is stored as (r, out) and (s, in) in CP form."""
    return a @ b if kernel is None else torch.einsum("rskl,si,ro->oikl", kernel, b, a)
