"""Differences that are products of small factors, whatever weight they are added to.

    LoRA: (alpha / rank) B A (Hu et al. 2021)
    LoHa: (alpha / rank) (A1 B1) * (A2 B2), multiplied element by element (Hyeon-Woo et al. 2022, FedPara)
    LoKr: (alpha / rank) W1 (x) W2, Kronecker's product; each whole, or the product A B of a low-rank pair

In a convolution's CP form a small kernel stands between the two of a pair (Yeh et al. 2023, LyCORIS). Names are those
of the files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .complete import DORA


def product(own: Mapping[str, Tensor]) -> Tensor:
    """The product of a LoRA, LoHa or LoKr without its strength: (out, in), or (out, in, kh, kw) with a kernel."""
    if "lora_up.weight" in own:
        return pair_product(own["lora_up.weight"], own["lora_down.weight"], own.get("lora_mid.weight"))
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
