"""Paired comparison of two readings: the same prompts and noise, drawn before and after.

What a refinement changes differs from prompt to prompt, and two pictures of one prompt share that. So prompts are the
clusters: a difference is the mean over prompts of each prompt's own mean, and its standard error comes from how much
prompts differ in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

STANDARD_ERRORS = 2.0
"""how many of its standard errors a difference has to fall by to count: by chance one of 17 does so with five prompts,
one of 31 with sixteen, and one of 44 with very many (Student's t)"""


@dataclass(frozen=True)
class PairedDifference:
    """A mean of differences and its standard error, which is infinite where fewer than two prompts tell it."""

    mean: float
    standard_error: float

    @property
    def fell(self) -> bool:
        """Whether it lies below zero by more than `STANDARD_ERRORS` of its standard errors."""
        return self.mean < -STANDARD_ERRORS * self.standard_error


def paired_difference(rows: Tensor, prompts: Sequence[int], weights: Sequence[float]) -> PairedDifference:
    """The weighted sum of the rows' means, where row k has a difference d of each picture.

        sum_k w_k mean_p d_kp,    SE^2 = sum_p (sum_k w_k (d_kp - mean_k) / sqrt(P_k (P_k - 1)))^2

    d_kp is prompt p's mean in row k, and P_k counts the prompts that have one: with a single row SE is the usual
    standard error of the mean, and rows of the same prompts are added up before it is taken.

    Args:
        rows: (k, pictures); NaN where a row does not apply to a picture.
        prompts: of each picture.
    """
    _, groups = torch.tensor(list(prompts)).unique(return_inverse=True)
    known, empty = ~rows.isnan(), torch.zeros(len(rows), int(groups.max()) + 1, dtype=torch.float64)
    pictures = empty.index_add(1, groups, known.double())
    table = empty.index_add(1, groups, rows.double().nan_to_num(0.0)) / pictures  # (k, P), NaN without a picture
    counts = (pictures > 0).sum(1, keepdim=True)
    used = counts.flatten() > 0
    table, counts = table[used], counts[used]
    if not len(table):
        return PairedDifference(math.nan, math.inf)
    shares = torch.tensor(list(weights), dtype=torch.float64)[used].view(-1, 1)
    means = table.nansum(1, keepdim=True) / counts
    mean = float((shares * means).sum())
    if bool((counts < 2).any()):
        return PairedDifference(mean, math.inf)
    apart = ((table - means) / (counts * (counts - 1)).sqrt()).nan_to_num(0.0)
    return PairedDifference(mean, float((shares * apart).sum(0).square().sum().sqrt()))
