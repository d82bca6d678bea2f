"""Means with their bootstrap intervals, alone and in pairs; shares with their score intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .errors import FewShotError

Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval over `n` independent runs; one run has no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[object] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """The mean of `values` with its percentile bootstrap interval (Efron 1979).

    Values of one group (pictures of one run) are not independent: each group is averaged first, and groups are drawn.

    Raises:
        FewShotError: no values, values that are not numbers, as many groups as values are not given, or a level
            outside (0, 1).
    """
    data = torch.as_tensor(list(values), dtype=torch.float64)
    if data.numel() == 0 or not torch.isfinite(data).all():
        raise FewShotError(f"no interval for {data.numel()} values that must all be numbers")
    if not 0 < level < 1:
        raise FewShotError(f"no interval of level {level}; choose one between 0 and 1, such as 0.95")
    if groups is not None:
        if len(groups) != len(data):
            raise FewShotError(f"{len(data)} values cannot lie in {len(groups)} groups; name the group of each value")
        names = list(dict.fromkeys(groups))
        data = torch.stack([data[[g == name for g in groups]].mean() for name in names])
    count = len(data)
    if count == 1:
        return Interval(mean=float(data[0]), low=None, high=None, n=1)
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    tail = (1 - level) / 2
    low, high = torch.quantile(data[drawn].mean(1), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(mean=float(data.mean()), low=low, high=high, n=count)


def paired_interval(
    after: Sequence[float], before: Sequence[float], groups: Sequence[object] | None = None, **how
) -> Interval:
    """The mean of `after` - `before`, pair by pair (the same prompt and seed), with its interval; see above."""
    if len(after) != len(before):
        raise FewShotError(f"{len(after)} values after and {len(before)} before are no pairs; score the same samples")
    return bootstrap_interval([a - b for a, b in zip(after, before, strict=True)], groups, **how)


def wilson(wins: int, total: int) -> Interval:
    """The share wins / total and its 95 % score interval (Wilson 1927); without a vote the share is not known."""
    if total == 0:
        return Interval(math.nan, None, None, 0)
    share, spread = wins / total, Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), total)
