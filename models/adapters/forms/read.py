"""From the tensors of a layer, by their suffixes, to the factor that they stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ....core.values import BIAS, Dense, Factor, Kept, LowRank
from .complete import (
    DIFFERENCE,
    DORA,
    LORA,
    NORM,
    OFT,
    WITH_LENGTHS,
    check_matrices,
    check_numbers,
    check_rotation,
    form_of,
)
from .products import pair_shape

PADDING = "reshape_weight"


def factor_of(path: str, parts: Mapping[str, Tensor]) -> Factor:
    """The factor of the layer at `path`; an alpha that is missing is the rank.

    Raises FewShotError where the tensors are of no form that can be applied, or are damaged.
    """
    parts = _without_padding(path, parts)
    form = form_of(path, parts)
    if form == LORA:
        _check_pair(path, parts)
    if form in WITH_LENGTHS:
        check_matrices(path, parts)
    check_numbers(path, parts)
    bias = parts[BIAS].float() if BIAS in parts else None
    if form == DIFFERENCE:
        return Dense(parts["diff"].float(), bias)
    if form == NORM and (bias is None or "b_norm" not in parts):
        return Dense(parts["w_norm"].float(), parts["b_norm"].float() if "b_norm" in parts else bias)
    if form == NORM:
        raise FewShotError(f"{path} changes its bias in two ways at once (b_norm and diff_b): save it in one form")
    if form == LORA and DORA not in parts:
        return _pair(path, parts, bias)
    if form == OFT:
        check_rotation(path, parts)
    return Kept({name: _upright(value) if name == DORA else value for name, value in parts.items()})


def _without_padding(path: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the shape that the layer is to be padded to, where that is the shape of what is added to it."""
    kept = {name: value for name, value in parts.items() if name != PADDING}
    if PADDING in parts and all(name in parts for name in ("lora_up.weight", "lora_down.weight")):
        wanted = parts[PADDING].flatten().tolist()
        shape = [*parts["lora_up.weight"].shape[:1], *parts["lora_down.weight"].shape[1:]]
        if wanted != shape:
            raise FewShotError(
                f"{path} is to get the shape {wanted} by its reshape_weight, and what is added to it is {shape}: "
                "layers of another size cannot be used here"
            )
    return kept


def _check_pair(path: str, parts: Mapping[str, Tensor]) -> None:
    up, down = parts["lora_up.weight"], parts["lora_down.weight"]
    alpha, mid = parts.get("alpha", torch.ones(())), parts.get("lora_mid.weight")
    between = "" if mid is None else f", {tuple(mid.shape)} between them"
    shapes = f"{tuple(up.shape)} and {tuple(down.shape)}{between}, alpha {tuple(alpha.shape)}"
    if pair_shape(up, down, mid) is None or alpha.numel() != 1:
        raise FewShotError(f"the low-rank pair of {path} does not fit together ({shapes}): the file is damaged")


def _pair(path: str, parts: Mapping[str, Tensor], bias: Tensor | None) -> LowRank:
    up, down = parts["lora_up.weight"].float(), parts["lora_down.weight"].float()
    mid = parts["lora_mid.weight"].float() if "lora_mid.weight" in parts else None
    alpha = float(parts["alpha"].float()) if "alpha" in parts else float(len(down))
    bound = float(up.abs().max()) * float(down.abs().max()) * abs(alpha) / len(down)
    if bound > torch.finfo(torch.float32).max:
        raise FewShotError(
            f"{path} holds numbers that are too large (their product is {bound:.0e}): the file is damaged or its "
            "training diverged"
        )
    return LowRank(up, down, alpha, mid, bias)


def _upright(lengths: Tensor) -> Tensor:
    """DoRA's lengths of rows as (out, 1)."""
    return lengths.view(-1, 1) if lengths.dim() == 1 else lengths
