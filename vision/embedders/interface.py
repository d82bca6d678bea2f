"""The protocols of embedders, whichever model is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    import torch


class ImageEmbedder(Protocol):
    """Embeds pictures as unit vectors: a `Clip`, a `ClipVision`, a `Dino`."""

    @property
    def model_id(self) -> str: ...

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device; on the CPU it takes no GPU memory."""
        ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, D) of pixels (n, 3, H, W) in [0, 1], differentiable."""
        ...

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU."""
        ...


class ImageTextEmbedder(ImageEmbedder, Protocol):
    """Embeds pictures and texts in one space: a `Clip`."""

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU."""
        ...
