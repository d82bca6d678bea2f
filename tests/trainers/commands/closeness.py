"""How two runs are held together that add up the same numbers in another order.

Rounding differs by processor. Adam divides each gradient by its own root, so that of one near zero only the rounding is
left, as large as any step: single weights say nothing. What means something is a gradient against the norm of all, and
the change of a layer's weights, up times down, against its norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

GRADIENT, CHANGE = 1e-4, 1e-2
MOMENT = "slots/exp_avg/"  # Adam's first moment; after one step a tenth of the gradient


def distance(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm."""
    apart = sum(float((a - b).double().square().sum()) for a, b in zip(one, two, strict=True)) ** 0.5
    return apart / sum(float(a.double().square().sum()) for a in one) ** 0.5


def changes_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Up times down of each low-rank pair, by its path."""
    ups = [name for name in state if name.startswith("weights/") and name.endswith(".lora_up")]
    return {name: state[name] @ state[name.removesuffix("up") + "down"] for name in ups}


def assert_the_same_training(one: Sequence[Mapping[str, Tensor]], two: Sequence[Mapping[str, Tensor]]) -> None:
    """The saved states after the first step and after the last: of the first the gradient, of both the change."""
    moments = [name for name in one[0] if name.startswith(MOMENT)]
    assert moments and any(bool(one[0][name].any()) for name in moments)
    assert distance([one[0][n] for n in moments], [two[0][n] for n in moments]) <= GRADIENT
    for mine, theirs in zip(one, two, strict=True):
        here, there = changes_of(mine), changes_of(theirs)
        assert list(here) == list(there) and any(bool(change.any()) for change in here.values())
        assert distance(list(here.values()), list(there.values())) <= CHANGE
        assert all(torch.isfinite(change).all() for change in there.values())
