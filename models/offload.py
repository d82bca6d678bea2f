"""Networks that only wait: off the GPU between the times they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


class Offloaded:
    """`parts` wait in host memory and come to `device` where they are needed; without parts nothing happens."""

    def __init__(self, parts: Sequence[nn.Module], device: torch.device):
        self.parts, self.device = tuple(parts), device

    def offload(self) -> None:
        """Off the GPU; what they held there is free for others."""
        for part in self.parts:
            part.to("cpu")
        if self.parts and self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def on_device(self, *needed: nn.Module) -> Iterator[None]:
        """Within this context they can compute; if some are named, only those of them."""
        for part in self.parts:
            if not needed or any(part is one for one in needed):
                part.to(self.device)
        try:
            yield
        finally:
            self.offload()
