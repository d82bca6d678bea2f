"""The optimiser, its learning rates, and the one flat buffer in which all gradients lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import Parameter


@dataclass(frozen=True)
class Rates:
    """The learning rate of each group of parameters, and how it goes over the steps."""

    rates: Mapping[str, float]
    steps: int
    warmup: int = 0
    schedule: str = "constant"

    def factor(self, step: int) -> float:
        """What the rates are multiplied with at `step` (counted from 0): a linear rise, then the schedule."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 1.0 - gone if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))

    def at(self, step: int) -> dict[str, float]:
        return {group: rate * self.factor(step) for group, rate in self.rates.items()}

    def set(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Give each of the optimiser's groups its rate at `step`."""
        rates = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]


def make_optimizer(
    parameters: Mapping[str, Parameter], rates: Rates, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019), betas 0.9 and 0.999; one group for each name of `rates`.

    A parameter belongs to the group whose name its own begins with.
    """
    groups = []
    for group, rate in rates.rates.items():
        members = [p for name, p in parameters.items() if name.startswith(group)]
        if members:
            groups.append({"name": group, "params": members, "lr": rate})
    left = [name for name in parameters if not name.startswith(tuple(rates.rates))]
    if left:
        raise ValueError(f"no learning rate for {left[0]}")
    fused = all(p.device.type in ("cpu", "cuda") for p in parameters.values())
    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=fused)


class FlatGradients:
    """All gradients, and after them one number for each loss term, in one fp32 buffer.

    One buffer makes zeroing, clipping and adding up over processes one operation each.
    """

    def __init__(self, parameters: Sequence[Parameter], terms: Sequence[str]):
        size = sum(p.numel() for p in parameters)
        device = parameters[0].device
        self.buffer = torch.zeros(size + len(terms), dtype=torch.float32, device=device)
        self.gradients = self.buffer[:size]
        self.terms = {name: self.buffer[size + i] for i, name in enumerate(terms)}
        start = 0
        for parameter in parameters:
            parameter.grad = self.buffer[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def zero(self) -> None:
        self.buffer.zero_()

    def clip(self, most: float) -> torch.Tensor:
        """Scale the gradients so that their norm is at most `most`; gives the norm before, on the device."""
        norm = torch.linalg.vector_norm(self.gradients)
        self.gradients.mul_((most / (norm + 1e-6)).clamp(max=1.0))
        return norm
