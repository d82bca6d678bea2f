"""The last weights known to be good, which a diverged training goes back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import Parameter

from ..health import START, WINDOW, Divergence


@dataclass
class Rollback:
    """Snapshots of `parameters` while their losses are healthy.

    Args:
        rule: when losses are those of a lost training; None knows only numbers that are not finite.
        every_step: each step is checked before its update, so that the weights of now are good until it fails.
    """

    parameters: Mapping[str, Parameter]
    rule: Divergence | None
    every_step: bool
    is_high: bool = False  # losses, at the last check
    is_healthy: bool = True  # so that the weights may be returned to
    restored: bool = False  # the optimiser took in values that were not finite
    snapshot_step: int = 0
    snapshot: list[torch.Tensor] = field(default_factory=list)

    def judge(self, losses: Mapping[str, torch.Tensor]) -> dict[str, float] | None:
        """What shows that the training is lost, by the losses of all its steps (n,); None where it is not."""
        if self.rule is None:
            return None
        errors = self.rule.errors(losses)
        self.is_high, self.is_healthy = self.rule.is_high(errors), self.rule.is_well(errors)
        if not self.rule.is_lost(errors):
            return None
        begun, now = float(errors[:START].median()), float(errors[-WINDOW:].median())
        return {"loss now": now, "at the start": begun, "of a denoiser that predicts nothing": 1.0}

    def keep(self, step: int) -> None:
        """Copy the weights after `step` steps; where each step is checked before its update, now and then."""
        if self.every_step and (self.rule is None or (self.snapshot and step % WINDOW)):
            return
        now = [p.detach() for p in self.parameters.values()]
        self.snapshot = self.snapshot or [torch.empty_like(p) for p in now]  # never two copies at once
        for kept, value in zip(self.snapshot, now, strict=True):
            kept.copy_(value)
        self.snapshot_step = step

    @torch.no_grad()
    def restore(self, step: int) -> int:
        """Put the last good weights in place; gives their step: `step` where those of now are good."""
        if not self.snapshot or (self.every_step and self.is_healthy):
            return step
        for parameter, value in zip(self.parameters.values(), self.snapshot, strict=True):
            parameter.copy_(value)
        self.restored = True
        return self.snapshot_step
