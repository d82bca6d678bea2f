"""LoHa and LoKr weight differences (Yeh et al. 2023, LyCORIS).

    LoHa: (alpha / rank) (A1 B1) * (A2 B2), multiplied element by element (Hyeon-Woo et al. 2022, FedPara)
    LoKr: (alpha / rank) W1 (x) W2, Kronecker's product; each whole, or the product A B of a low-rank pair

In a convolution's CP form a small kernel stands between the two of a pair. Names are those of the files.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

HADAMARD = {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}
KERNELS = {"hada_t1", "hada_t2"}
KRONECKER = {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}


def is_lycoris(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are the tensors of a complete LoHa or LoKr."""
    names = set(tensors) - {"alpha"}
    if names & HADAMARD:
        return names in (HADAMARD, HADAMARD | KERNELS)
    both = all(names & {f"lokr_{side}"} or {f"lokr_{side}_a", f"lokr_{side}_b"} <= names for side in ("w1", "w2"))
    return both and names <= KRONECKER


def lycoris_delta(tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Tensor:
    """The difference in float32: (out, in), or (out, in, kh, kw) where a kernel is stored; see `is_lycoris`."""
    own = {name: value.to(device, torch.float32) for name, value in tensors.items()}
    if "hada_w1_a" in own:
        first, second = (_pair(own[f"hada_w{n}_a"], own[f"hada_w{n}_b"], own.get(f"hada_t{n}")) for n in (1, 2))
        return first * second * _strength(tensors, len(own["hada_w1_b"]))
    first, second = (_side(own, side) for side in ("w1", "w2"))
    rank = next((len(own[f"lokr_{side}_b"]) for side in ("w2", "w1") if f"lokr_{side}" not in own), None)
    if second.dim() == 4:
        first = first[:, :, None, None]
    return torch.kron(first, second.contiguous()) * (1.0 if rank is None else _strength(tensors, rank))


def input_width(tensors: Mapping[str, Tensor]) -> int:
    """The input width of a layer with this difference."""
    if "hada_w1_b" in tensors:
        return tensors["hada_w1_b"].shape[1]
    parts = (tensors.get(f"lokr_{side}", tensors.get(f"lokr_{side}_b")) for side in ("w1", "w2"))
    widths = [part.shape[1] for part in parts if part is not None]
    return widths[0] * widths[1]


def _side(own: Mapping[str, Tensor], side: str) -> Tensor:
    whole = own.get(f"lokr_{side}")
    if whole is not None:
        return whole
    return _pair(own[f"lokr_{side}_a"], own[f"lokr_{side}_b"], own.get("lokr_t2") if side == "w2" else None)


def _pair(a: Tensor, b: Tensor, kernel: Tensor | None) -> Tensor:
    """A B; with a kernel (r, s, kh, kw) the pair is stored as (r, out) and (s, in) in CP form."""
    return a @ b if kernel is None else torch.einsum("rskl,si,ro->oikl", kernel, b, a)


def _strength(tensors: Mapping[str, Tensor], rank: int) -> float:
    """alpha / rank; 1 without alpha. A LoKr of two whole factors has no rank and no strength of its own."""
    return float(tensors["alpha"]) / rank if "alpha" in tensors else 1.0
