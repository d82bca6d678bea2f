"""The pocket's AutoencoderKL: 64 x 64 pictures to 8 x 8 latents of 8 channels."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL

from ..world.scene_batches import stream, to_signed

SEED = 11
KL_WEIGHT = 2e-5


def build() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def loss_of(vae: AutoencoderKL, first_step: int, device: torch.device, batch: int = 16):
    """Mean squared and absolute error of the reconstruction, and a light pull of the latents to unit variance."""
    batches = stream(SEED, batch, first_step, badged=0.1)

    def loss(step: int):
        pictures = to_signed(next(batches)[1]).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            reconstruction = vae.decode(posterior.sample()).sample
        square = (reconstruction.float() - pictures).square().mean()
        absolute = (reconstruction.float() - pictures).abs().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).float().mean()
        psnr = float(10 * torch.log10(4 / square.detach()))
        return square + 0.2 * absolute + KL_WEIGHT * kl, {"psnr": round(psnr, 2)}

    return loss


@torch.no_grad()
def latent_scale(vae: AutoencoderKL, device: torch.device) -> float:
    """1 / standard deviation of the latents of 256 scenes, the `scaling_factor` that gives them unit variance."""
    _, pictures, _ = next(stream(SEED + 1, 256))
    return float(1 / vae.encode(to_signed(pictures).to(device)).latent_dist.mean.std())
