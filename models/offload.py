"""Move unused sub-models to the CPU, and back to the GPU while they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Offloaded:
    """`parts` are kept in host memory and moved to `device` on demand; without parts nothing happens."""

    def __init__(self, parts: Sequence[nn.Module], device: torch.device):
        self.parts, self.device = tuple(parts), device

    def offload(self) -> None:
        """Move all parts to the CPU and free their GPU memory."""
        for part in self.parts:
            part.to("cpu")
        if self.parts and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def on_device(self, *needed: nn.Module) -> Iterator[None]:
        """Parts are on the device within this context: all of them, or only those in `needed`."""
        for part in self.parts:
            if not needed or any(part is one for one in needed):
                part.to(self.device)
        try:
            yield
        finally:
            self.offload()
