"""What is the same for every denoiser's call: one call for the rows of each shape, and classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .conditioning import Conditioning, taken

if TYPE_CHECKING:
    from .contract import DiffusionModel

Call = Callable[[Tensor, Tensor, Conditioning, Tensor | None], Tensor]
"""`DiffusionModel.predict` for rows whose conditioning has one shape"""


def by_shape(call: Call, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
    """`call` once for all rows of each shape, and what it gives (B, ...) in the order of the rows.

    Every model's `predict` goes through it, so that nobody who calls one has to know of lengths. Rows must not depend
    on what else is in their call.
    """
    groups = conditioning.groups()
    if len(groups) == 1:
        return call(latents, t, conditioning, sizes)
    found, order = [], []
    for places, part in groups:
        own = None if sizes is None else taken(sizes, places)
        found.append(call(taken(latents, places), taken(t, places), part, own))
        order += places
    return taken(torch.cat(found), [order.index(place) for place in range(len(order))])


def guided(model: DiffusionModel, latents: Tensor, t: Tensor, told: Conditioning, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022) on the prediction (n, ...) for latents (n, ...) at times (n,).

    `told` are n rows to be drawn away from and the n rows of the prompts, or these alone: then it is the prediction.
    """
    copies = len(told) // len(latents)
    prediction = model.predict(torch.cat([latents] * copies), t.repeat(copies), told)
    if copies == 1:
        return prediction
    away, towards = prediction.chunk(2)
    return away + guidance * (towards - away)
