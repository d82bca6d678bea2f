"""Loss terms as pure functions. Predictions and targets are (B, C, h, w); everything is computed in fp32.

Each function returns one number for each sample, (B,), so that a batch may be reduced whole or in parts with the same
result; `part_of_mean` reduces.
"""

from __future__ import annotations

import torch


def weight_map(mask: torch.Tensor, background: float) -> torch.Tensor:
    """W = M + background * (1 - M) for masks M (B, 1, h, w) in [0, 1]."""
    mask = mask.float()
    return mask + background * (1.0 - mask)


def squared_error(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of each sample (B,), over C, h and w.

    With `weights` W (B, 1, h, w) it is sum(W * (prediction - target)^2) / (C * sum(W)): normalised by area, so that
    empty surroundings change nothing where W is 0.
    """
    squares = (prediction.float() - target.float()).square()
    if weights is None:
        return squares.mean(dim=(1, 2, 3))
    weights = weights.float()
    return (squares * weights).sum(dim=(1, 2, 3)) / (squares.shape[1] * weights.sum(dim=(1, 2, 3)))


def min_snr_weight(snr: torch.Tensor, gamma: float, prediction: str) -> torch.Tensor:
    """Weights (B,) of min-SNR-gamma for signal-to-noise ratios `snr` (B,) (Hang et al. 2023, arXiv:2303.09556).

    min(SNR, gamma) / SNR when the noise is predicted, min(SNR, gamma) / (SNR + 1) when the velocity is.
    """
    snr = snr.float()
    if prediction == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1.0)
    return (gamma / snr).clamp(max=1.0)


def reference_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor | None = None,
    time_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_ref of each sample (B,): the denoising error on reference pictures (Ruiz et al. 2023, arXiv:2208.12242, eq. 2).

    `weights` (B, 1, h, w) weigh places, `time_weight` (B,) weighs the samples' timesteps.
    """
    losses = squared_error(prediction, target, weights)
    return losses if time_weight is None else losses * time_weight


def prior_loss(prediction: torch.Tensor, target: torch.Tensor, time_weight: torch.Tensor | None = None) -> torch.Tensor:
    """L_prior of each sample (B,): the same error on pictures of the class, made by the base (ibid., prior term)."""
    return reference_loss(prediction, target, None, time_weight)


def part_of_mean(losses: torch.Tensor, count: int) -> torch.Tensor:
    """What these samples (b,) add to the mean over `count` samples: parts of a batch add up to the batch's mean."""
    return losses.sum() / count
