"""Loss terms as pure functions. Predictions and targets are (B, C, ..., h, w); all is computed in fp32.

Each function returns one number for each sample, (B,), so that a batch may be reduced whole or in parts with the same
result; `part_of_mean` reduces.
"""

from __future__ import annotations

import torch


def weight_map(mask: torch.Tensor, background: float | torch.Tensor) -> torch.Tensor:
    """W = M + background * (1 - M) for masks M (B, 1, h, w) in [0, 1]; one background for all, or (B, 1, 1, 1)."""
    mask = mask.float()
    return mask + background * (1.0 - mask)


def squared_error(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error of each sample (B,), over all but rows.

    With `weights` W (B, 1, h, w) it is sum(W * (prediction - target)^2) / (C * sum(W)): normalised by area, so that
    empty surroundings change nothing where W is 0. Latents with a dimension for frames have all of them weighed alike.
    """
    squares = (prediction.float() - target.float()).square()
    if weights is None:
        return squares.mean(dim=tuple(range(1, squares.dim())))
    weights = weights.float()
    beside = weights.view(len(weights), *[1] * (squares.dim() - 3), *weights.shape[-2:])
    whole = (squares * beside).sum(dim=tuple(range(1, squares.dim())))
    return whole / (squares.shape[1:-2].numel() * weights.sum(dim=(1, 2, 3)))


def min_snr_weight(snr: torch.Tensor, error_ratio: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights (B,) of min-SNR-gamma for signal-to-noise ratios `snr` (B,) (Hang et al. 2023, arXiv:2303.09556).

    min(SNR, gamma) is the weight of an error of the clean latents; `error_ratio` (B,), as of `DiffusionProcess`, turns
    it into that of the prediction: SNR of noise, SNR + 1 of v, 1 / sigma^2 of a flow's velocity.
    """
    ratio = error_ratio.float()
    share = torch.where(ratio > 0, snr.float() / ratio, 1.0)  # pure noise, predicted as such, counts in full
    return torch.minimum(gamma / ratio, share)


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


def prior_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    time_weight: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """L_prior of each sample (B,): the same error on pictures of the class, made by the base (ibid., prior term)."""
    return reference_loss(prediction, target, weights, time_weight)


SURE = 1e-3
"""attention shares p become p * (1 - 2 * SURE) + SURE: affine, so that no place's gradient is cut off"""


def local_loss(shares: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """L_local of each sample (B,): balanced binary cross-entropy between attention and mask, mean over its subjects.

    Inside and outside of the mask count half each, whatever their areas; where one of them is empty, the other counts
    in full. With soft masks M it is the mean of -log p weighted by M, and of -log(1 - p) weighted by 1 - M.

    Args:
        shares: p in [0, 1] (B, S, h, w), the share of the attention that goes to a subject's words.
        masks: where each subject is (B, S, h, w), in [0, 1].
        valid: (B, S), 1 where the subject is in the caption and has a mask; a sample without any gives 0.
    """
    shares, masks, valid = shares.float() * (1 - 2 * SURE) + SURE, masks.float(), valid.float()
    inside, outside = masks.sum((-2, -1)), (1 - masks).sum((-2, -1))
    present = (masks * -shares.log()).sum((-2, -1)) / inside.clamp(min=1e-6)
    absent = ((1 - masks) * -(1 - shares).log()).sum((-2, -1)) / outside.clamp(min=1e-6)
    has = torch.stack([inside > 1e-6, outside > 1e-6]).float()
    each = (has[0] * present + has[1] * absent) / has.sum(0)
    return (each * valid).sum(1) / valid.sum(1).clamp(min=1)


def consistency_loss(error: torch.Tensor, base_error: torch.Tensor, beta: float) -> torch.Tensor:
    """Direct consistency optimisation of each sample (B,) (Lee et al. 2024, arXiv:2402.12004, eq. 8).

    -log sigmoid(-beta * (error - base_error)): the adapted model shall have a smaller error than the base, and nothing
    is gained by going far. Taken for each sample, and divided by beta / 2, so that its gradient is that of `error`
    where both errors are equal; the loss itself is 2 log(2) / beta there.
    """
    return torch.nn.functional.softplus(beta * (error - base_error)) * (2.0 / beta)


def preservation_loss(
    prediction: torch.Tensor, base: torch.Tensor, time_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """L_preserve of each sample (B,): differential output preservation, as ai-toolkit has it.

    The mean squared difference of two predictions on the same noisy latents, both told of the class alone: that of the
    network as it is trained, and that of the base.
    """
    return reference_loss(prediction, base.detach(), None, time_weight)


def steering_loss(
    word: torch.Tensor, positives: torch.Tensor, negatives: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Relation steering of one vector: a scalar (Huang et al. 2023, arXiv:2303.13495, eq. 5).

    -log of the share that `positives` (P, D) have in the sum of exp(cosine / temperature) over them and `negatives`
    (N, D), with P > 0: the vector shall be nearer to words for relations than to words for things. Cosines, since
    lengths of half a unit would leave the best value near the worst. No gradient goes into positives and negatives.
    """
    others = torch.cat([positives, negatives]).detach().float()
    cosines = torch.nn.functional.cosine_similarity(word.float()[None], others) / temperature
    return cosines.logsumexp(0) - cosines[: len(positives)].logsumexp(0)


def part_of_mean(losses: torch.Tensor, count: int) -> torch.Tensor:
    """What these samples (b,) add to the mean over `count` samples: parts of a batch add up to the batch's mean."""
    return losses.sum() / count
