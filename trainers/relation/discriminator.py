"""A small network that tells latents of pictures from latents that a denoiser predicts. Used while training only."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (64, 128, 256, 256)
GRID = 4  # places a side that are judged
LEVELS = 128  # numbers that tell the noise level


class Discriminator(nn.Module):
    """Logits (B, 16) of GRID x GRID places for latents (B, C, h, w) that are noised to the timesteps `levels` (B,).

    A stem and four residual blocks with the noise level as scale and shift, halved in size until GRID is reached. Each
    weight is divided by its largest singular value (Miyato et al. 2018), found by power iterations from a fixed start,
    so that nothing but parameters has to be saved.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        halvings = max(0, round(math.log2(side / GRID)))
        self.level = nn.Sequential(_Linear(LEVELS, LEVELS), nn.SiLU())
        self.stem = _Conv(channels, WIDTHS[0])
        pairs = zip((WIDTHS[0], *WIDTHS), WIDTHS, strict=False)
        self.blocks = nn.ModuleList(_Block(a, b, number < halvings) for number, (a, b) in enumerate(pairs))
        self.head = _Conv(WIDTHS[-1], 1)

    def forward(self, latents: Tensor, levels: Tensor) -> Tensor:
        level_features = self.level(waves(levels))
        states = self.stem(latents)
        for block in self.blocks:
            states = block(states, level_features)
        return self.head(F.adaptive_avg_pool2d(F.silu(states), GRID)).flatten(1)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, halved: bool):
        super().__init__()
        self.halved = halved
        self.first, self.second = _Conv(before, after), _Conv(after, after)
        self.skip = _Conv(before, after, 1)
        self.film = nn.Linear(LEVELS, 2 * after)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, states: Tensor, level_features: Tensor) -> Tensor:
        scale, shift = self.film(level_features)[:, :, None, None].chunk(2, 1)
        new = self.first(F.silu(states)) * (1 + scale) + shift
        new = (self.second(F.silu(new)) + self.skip(states)) / math.sqrt(2)
        return F.avg_pool2d(new, 2) if self.halved else new


class _Conv(nn.Conv2d):
    def __init__(self, before: int, after: int, kernel: int = 3):
        super().__init__(before, after, kernel, padding=kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, normalised(self.weight), self.bias)


class _Linear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, normalised(self.weight), self.bias)


def normalised(weight: Tensor, iterations: int = 4) -> Tensor:
    """A weight (out, ...) divided by about its largest singular value as a matrix (out, rest)."""
    matrix = weight.flatten(1)
    with torch.no_grad():
        left = matrix.sum(1) + matrix[:, 0]  # whatever is not orthogonal to the first singular vector
        for _ in range(iterations):
            right = F.normalize(left @ matrix, dim=0)
            left = F.normalize(matrix @ right, dim=0)
    return weight / (left @ matrix @ right).clamp(min=1e-12)


def waves(levels: Tensor) -> Tensor:
    """Sines and cosines (B, LEVELS) of timesteps (B,)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(LEVELS // 2, device=levels.device) / (LEVELS // 2))
    phases = levels.float()[:, None] * rates
    return torch.cat([phases.sin(), phases.cos()], 1)
