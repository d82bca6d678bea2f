"""The losses of refinement: pure functions, one equation each.

Log-probabilities are means over latent numbers (see `policy.Gaussian`), so a ratio is that of the probabilities to the
power of one over their number D.
"""

from __future__ import annotations

from torch import Tensor

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
