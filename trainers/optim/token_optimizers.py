"""Optimizers of learned tokens: norm-bounded AdamW, and Riemannian descent on the sphere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import normalize

# kappa: the weight of the prior towards the initial direction (the paper's value).
PRIOR = 1e-4
EPSILON, ROUNDING = 1e-8, 1e-5


class BoundedAdamW(torch.optim.AdamW):
    """AdamW without decay, after whose steps no row is longer than its bound: long vectors drown their neighbours.

    Args:
        groups: as of AdamW, of parameters (n, width).
        longest: the bound of each parameter's rows, by its id.
    """

    def __init__(self, groups: Sequence[dict], max_norm: Mapping[int, float]):
        super().__init__(groups, weight_decay=0.0)
        self.max_norm = max_norm

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                bound = self.max_norm[id(parameter)]
                parameter.mul_((bound / parameter.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1.0))


class RiemannianDescent(torch.optim.Optimizer):
    """Riemannian descent of unit rows (Directional Textual Inversion, arXiv:2512.13672).

    The gradient of the loss and of a von Mises-Fisher prior, g - kappa * mu, loses its part along the row and its
    length, and the row goes a step against it and back onto the sphere. The learning rate is the tangent of a step's
    angle, in radians: its length does not depend on how the gradients' lengths change, as in the authors' runs, whose
    mean square has no memory. With one of 1000 steps early, large gradients shrank all later steps to a fifth, and with
    one of 10 steps two of five withheld relations were not found.

    Args:
        groups: of parameters (n, width) with unit rows.
        starts: mu of each parameter (n, width), by its id.
    """

    def __init__(self, groups: Sequence[dict], starts: Mapping[int, Tensor], prior: float = PRIOR):
        super().__init__(groups, {"lr": 0.01})
        self.starts, self.prior = starts, prior

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group["lr"])

    def _move(self, row: Parameter, slope: Tensor, rate: float) -> None:
        pulled = slope - self.prior * self.starts[id(row)]
        tangent = pulled - (pulled * row).sum(1, keepdim=True) * row
        # what is left of a gradient along the row is rounding, and no direction
        rounding = ROUNDING * pulled.norm(dim=1, keepdim=True)
        length = tangent.norm(dim=1, keepdim=True) + rounding + EPSILON
        row.copy_(normalize(row - rate * tangent / length, dim=1))
