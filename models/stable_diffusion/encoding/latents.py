"""Between pictures and latents, through the model's autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..networks import Networks


@torch.no_grad()
def encode_pictures(model: Networks, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents' distribution, both scaled, (B, C, h, w) in float32.

    `pictures` are (B, 3, H, W) in [0, 1]. A latent sample is mean + std * noise.
    """
    vae = model.vae
    pixels = pictures.to(model.device, vae.dtype) * 2 - 1
    latent = vae.encode(pixels).latent_dist
    scale, shift = _scaling(model)
    return (latent.mean.float() - shift) * scale, latent.std.float() * scale


def decode_latents(model: Networks, latents: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], float32, of scaled latents (B, C, h, w). Differentiable."""
    scale, shift = _scaling(model)
    unscaled = latents.to(model.device).float() / scale + shift
    pixels = model.vae.decode(unscaled.to(model.vae.dtype)).sample
    return ((pixels.float() + 1) / 2).clamp(0, 1)


def _scaling(model: Networks) -> tuple[float, float]:
    config = model.vae.config
    return config.scaling_factor, getattr(config, "shift_factor", None) or 0.0
