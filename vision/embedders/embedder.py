"""What the image embedders share: pictures to pixels, pixels to unit embeddings, each picture once where asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

BATCH = 32


class FrozenEmbedder(ABC):
    """A network opened on first use, in fp32, with the way its pictures are prepared. Several metrics may share one.

    The shorter edge is resized (bicubic), the middle cropped to a square, and normalised.
    """

    def __init__(self, device: torch.device | str, mean: Sequence[float], std: Sequence[float]):
        self.device = torch.device(device)
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        self._known: dict[int, tuple[Image.Image, torch.Tensor]] | None = None

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """The shorter edge, and the side of the square, in pixels."""

    @abstractmethod
    def _open(self) -> Any:
        """The network on `device`, frozen; FewShotError where its files cannot be read."""

    @abstractmethod
    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The network's embeddings (n, D) of prepared pixels (n, 3, side, side), of any length."""

    @cached_property
    def model(self) -> Any:
        return self._open()

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device; on the CPU it takes no GPU memory."""
        self.device = torch.device(device)
        self.model.to(self.device)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """(3, side, side): the picture prepared."""
        return pixels(image, *self.sizes, self.mean, self.std)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, D) of pixels (n, 3, H, W) in [0, 1] on the model's device, differentiable.

        The same as `images` of the same pictures, up to the rounding of pixels between resizing and cropping.
        """
        prepared = preprocess_batch(pixels, *self.sizes, self.mean, self.std)
        return torch.nn.functional.normalize(self._features(prepared), dim=-1)

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU."""
        known = self._known
        if known is None:
            return self._embed(images)
        new = list({id(image): image for image in images if id(image) not in known}.values())
        if new:
            known |= {id(image): (image, row) for image, row in zip(new, self._embed(new), strict=True)}
        return torch.stack([known[id(image)][1] for image in images])

    @torch.no_grad()
    def _embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = torch.stack([self.pixels(image) for image in images[start : start + BATCH]])
            parts.append(self._features(batch.to(self.device)))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu()

    @contextmanager
    def embedding_once(self, pinned: Sequence[Image.Image]) -> Iterator[Callable[[], None]]:
        """`images` embeds each picture once, known by its identity.

        Gives a function that drops the embeddings of all pictures but `pinned`.
        """
        known = self._known = {}
        kept = frozenset(map(id, pinned))

        def forget() -> None:
            for key in known.keys() - kept:
                del known[key]

        try:
            yield forget
        finally:
            self._known = None


def pixels(image: Image.Image, edge: int, side: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """(3, side, side): the shorter edge resized to `edge` (bicubic), cropped in the middle, normalised."""
    width, height = image.size
    shape = (edge, int(edge * height / width)) if width <= height else (int(edge * width / height), edge)
    resized = image.convert("RGB").resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - side) // 2, (shape[1] - side) // 2
    values = np.asarray(resized.crop((left, top, left + side, top + side)), np.float32) / 255
    return (torch.from_numpy(values).permute(2, 0, 1) - mean) / std


def preprocess_batch(pixels: torch.Tensor, edge: int, side: int, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """`pixels` for a batch (n, 3, H, W) in [0, 1]: differentiable, without rounding to bytes."""
    height, width = pixels.shape[-2:]
    shape = (int(edge * height / width), edge) if width <= height else (edge, int(edge * width / height))
    resized = torch.nn.functional.interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    cropped = resized[..., top : top + side, left : left + side]
    return (cropped - mean.to(pixels.device)) / std.to(pixels.device)
