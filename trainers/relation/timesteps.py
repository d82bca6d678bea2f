"""How timesteps are drawn where not all are alike probable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...core.randomness import Randomness


def relation_focal(count: int, alpha: float) -> torch.Tensor:
    """Probabilities (T,) in float64 of the timesteps 0 to T - 1 (Huang et al. 2023, arXiv:2303.13495, eq. 7).

    f(t) = (1 - alpha * cos(pi * t / T)) / T, normalised: noisy timesteps, in which a picture's layout is decided, come
    more often. `alpha` lies in [0, 1]; 0 makes all alike.
    """
    times = torch.arange(count, dtype=torch.float64)
    weights = 1.0 - alpha * torch.cos(math.pi * times / count)
    return weights / weights.sum()


def drawn_times(
    random: Randomness, stream: str, step: int, samples: Sequence[int], probabilities: torch.Tensor
) -> torch.Tensor:
    """Timesteps (n,) of the samples, int64: uniform numbers through the inverse of the cumulative probabilities."""
    limits = probabilities.cumsum(0).to(random.device, torch.float32)
    drawn = random.uniform(stream, step, samples)
    return torch.searchsorted(limits, drawn, right=True).clamp(max=len(limits) - 1)
