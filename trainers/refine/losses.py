"""The losses of refinement: pure functions, one equation each.

Log-probabilities are means over latent numbers (see `process.Gaussian`), so a ratio is that of the probabilities
to the power of one over their number D.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CLIP_NUMBERS = 64 * 64 * 4  # latent numbers for which clip ranges are written


def clip_for(clip_range: float, numbers: int) -> float:
    """The clip range for latents of `numbers` numbers: the same bound on the true log-ratio, D times the mean one."""
    return clip_range * CLIP_NUMBERS / numbers


def importance_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """max(-A rho, -A clip(rho, 1 - c, 1 + c)) with rho = exp(l - l_old), and where it was clipped; both (n,).

    The importance-sampled policy gradient of DDPO (Black et al. 2023, eq. 4) with PPO's clipping (Schulman et al.
    2017, eq. 7). At rho = 1 its gradient is REINFORCE's, -A grad l.
    """
    ratio = (log_prob - old).exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    loss = (-advantage * ratio).maximum(-advantage * bounded)
    return loss, ((ratio - 1).abs() > clip).float()


def clamped_loss(log_prob: Tensor, old: Tensor, advantage: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """-A clip(rho, 1 - c, 1 + c), and where it was clipped; both (n,).

    The ratio of DPOK's released code (Fan et al. 2023), which is clamped alone: without PPO's maximum no gradient is
    left beyond the clip, whatever the sign of A.
    """
    ratio = (log_prob - old).exp()
    return -advantage * ratio.clamp(1 - clip, 1 + clip), ((ratio - 1).abs() > clip).float()


def nft_loss(now: Tensor, old: Tensor, clean: Tensor, optimality: Tensor, beta: float) -> Tensor:
    """(1 / beta) (r |x+ - z0|^2 / w+ + (1 - r) |x- - z0|^2 / w-) (n,), DiffusionNFT (Zheng et al. 2025, eq. 5 and 9).

    x+ = beta x + (1 - beta) x_old and x- = (1 + beta) x_old - beta x are the implicit positive and negative policies,
    given by what the denoiser and the one that drew the picture say of the clean latents; w = mean |x - z0| weighs
    timesteps alike and has no gradient. At x = x_old the gradient is (2 r - 1) times that of learning the picture.

    Args:
        now, old, clean: clean latents (n, C, h, w), predicted and true.
        optimality: r (n,) in [0, 1]; a half is an average picture.
    """
    positive = beta * now + (1 - beta) * old
    negative = (1 + beta) * old - beta * now
    return (optimality * _even(positive, clean) + (1 - optimality) * _even(negative, clean)) / beta


def _even(found: Tensor, clean: Tensor) -> Tensor:
    """The mean squared error (n,) over the mean absolute one, which is held fixed."""
    missed = (found - clean).flatten(1)
    scale = missed.detach().abs().mean(1).clamp(min=1e-5)
    return missed.square().mean(1) / scale


def preference_loss(won: Tensor, won_before: Tensor, lost: Tensor, lost_before: Tensor, beta: float) -> Tensor:
    """-log sigmoid(-beta / 2 ((e_w - e_w,ref) - (e_l - e_l,ref))) (n,), Diffusion-DPO (Wallace et al. 2023, eq. 14).

    Each e (n,) is the mean squared error of the prediction on the better or the worse picture, at one timestep and one
    noise; "before" is that of the subject's own denoiser. Where nothing was learned the loss is log 2.
    """
    return functional.softplus(0.5 * beta * ((won - won_before) - (lost - lost_before)))


def optimality(advantage: Tensor, bound: float) -> Tensor:
    """r = 1/2 + A / (2 bound), within [0, 1]: DiffusionNFT's probability that a picture is a good one.

    The bound is 1 in the paper's text and 5 in its released code.
    """
    return torch.clamp(0.5 + advantage / (2 * bound), 0.0, 1.0)
