"""Batches of scenes for training, drawn by a worker process; batch b of a stream is a pure function of (seed, b)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from . import drawing, world


class SceneBatches(Dataset):
    """Item b is ([Scene], uint8 pictures (B, 3, 64, 64), visible masks (B, 2, 64, 64) uint8 where asked for)."""

    def __init__(self, seed: int, size: int, first: int = 0, count: int = 10**9, masked: bool = False, **how):
        self.seed, self.size, self.first, self.count, self.how = seed, size, first, count, how
        self.masked = masked

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        start = (self.first + index) * self.size
        scenes = [world.scene_of(self.seed, start + i, **self.how) for i in range(self.size)]
        pictures = np.empty((self.size, 3, world.SIZE, world.SIZE), np.uint8)
        masks = np.zeros((self.size, 2, world.SIZE, world.SIZE), np.uint8)
        for i, scene in enumerate(scenes):
            if not self.masked:
                pictures[i] = drawing.pixels(scene).transpose(2, 0, 1)
                continue
            picture, parts = drawing.render(scene)
            pictures[i] = np.asarray(picture).transpose(2, 0, 1)
            for j, mask in enumerate(parts):
                masks[i, j] = np.asarray(mask) > 0
        return scenes, torch.from_numpy(pictures), torch.from_numpy(masks)


def stream(seed: int, size: int, first: int = 0, **how) -> Iterator:
    """Endless batches from number `first` on."""
    return iter(DataLoader(SceneBatches(seed, size, first, **how), batch_size=None, num_workers=1, prefetch_factor=4))


def to_signed(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 [0, 255] to float [-1, 1]."""
    return pictures.float().div_(127.5).sub_(1)
