"""Extract low-rank adapters from full weight differences by SVD."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..core.progress import NullProgress, Progress
from ..core.values import Dense, Factor, LowRank


def svd_low_rank(
    differences: Mapping[str, Dense], rank: int, device: torch.device | str = "cpu", progress: Progress | None = None
) -> tuple[dict[str, Factor], float]:
    """The best approximation of weight differences by pairs of at most `rank` (Eckart & Young 1936), and its error.

    Matrices and convolutions become pairs; one-dimensional weights (norms) are unchanged, biases of matrices dropped.
    The second value is the relative error over everything, in the Frobenius norm.
    """
    progress = progress or NullProgress()
    factors: dict[str, Factor] = {}
    error = total = 0.0
    for done, (path, change) in enumerate(differences.items()):
        progress.check()
        if done % 20 == 0:
            progress.report(done, len(differences), f"extracting an adapter: layer {done + 1} of {len(differences)}")
        bias = 0.0 if change.bias is None else float(change.bias.double().square().sum())
        total += float(change.weight.double().square().sum()) + bias
        if change.weight.dim() < 2:
            factors[path] = change
            continue
        factors[path], left = _pair(change.weight, rank, device)
        error += left + bias
    return factors, math.sqrt(error / total) if total else 0.0


def _pair(weight: Tensor, rank: int, device: torch.device | str) -> tuple[LowRank, float]:
    """The pair, balanced between up and down, and the squared error."""
    matrix = weight.to(device, torch.float32).flatten(1)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    up, down = (u[:, :kept] * root).cpu(), (root[:, None] * v[:kept]).cpu()
    if weight.dim() == 4:
        up, down = up[:, :, None, None], down.reshape(kept, *weight.shape[1:])
    return LowRank(up, down, float(kept)), float(s[kept:].double().square().sum())
