"""What a denoiser is conditioned on, by rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """What the denoiser is told: `hidden` (B, L, D) and, for SDXL, `pooled` (B, P)."""

    hidden: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def take(self, indices: Tensor | Sequence[int] | slice) -> Conditioning:
        """The rows `indices`, on the device where they are."""
        if not isinstance(indices, (slice, Tensor)):
            indices = torch.tensor(indices, dtype=torch.long, device=self.hidden.device)
        return Conditioning(self.hidden[indices], None if self.pooled is None else self.pooled[indices])

    def to(self, *args, **kwargs) -> Conditioning:
        """To a device or a type, as a tensor's `to`."""
        pooled = None if self.pooled is None else self.pooled.to(*args, **kwargs)
        return Conditioning(self.hidden.to(*args, **kwargs), pooled)

    def detach(self) -> Conditioning:
        return Conditioning(self.hidden.detach(), None if self.pooled is None else self.pooled.detach())

    def repeat(self, times: int) -> Conditioning:
        """All rows `times` times over, in the order 0 1 2 0 1 2."""
        return Conditioning.cat([self] * times)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The rows of all parts in a row."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)
