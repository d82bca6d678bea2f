"""The pocket's text encoder and denoiser, and the loss that fits them together on latents.

Epsilon prediction on the SD schedule; a tenth of the captions is empty. Errors are weighted by min(SNR, 5) + 1 in terms
of the clean latents: min-SNR (Hang et al. 2023, gamma 5) with a floor, since min-SNR alone hardly teaches the noisiest
steps, and with latents of 8 x 8 those decide what is where.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import world
from .words import LENGTH

SEED = 31
WIDTH = 192


def build_text(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(96, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=32,
    )


def build_schedule() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


class Painter(torch.nn.Module):
    """Text encoder and denoiser, fitted together."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, noisy, timesteps, tokens):
        hidden = self.text(tokens).last_hidden_state
        return self.unet(noisy, timesteps, hidden).sample


def loss_of(painter: Painter, tokenizer, latents: torch.Tensor, scenes: list, device: torch.device, batch: int = 32):
    """`latents` (N, 8, 8, 8) fp16 are scaled; `scenes` are their contents. Captions are worded anew in every step."""
    alphas = build_schedule().alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weights = (snr.clamp(max=5) + 1) / snr

    def loss(step: int):
        rng = world.lots(SEED, step)
        chosen = rng.integers(len(scenes), size=batch)
        captions = ["" if rng.random() < 0.1 else world.caption(scenes[i], rng) for i in chosen]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        clean = latents[torch.from_numpy(chosen)].to(device).float()
        generator = torch.Generator().manual_seed(SEED * 10**7 + step)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(0, 1000, (batch,), generator=generator).to(device)
        keep = alphas[times].view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            found = painter(keep.sqrt() * clean + (1 - keep).sqrt() * noise, times, tokens)
        errors = (found.float() - noise).square().mean((1, 2, 3))
        return (weights[times] * errors).mean(), {"mse": round(float(errors.mean().detach()), 4)}

    return loss
