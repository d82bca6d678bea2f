"""The pocket's text encoder and denoiser, and the loss that fits them together on latents.

Epsilon prediction on the SD schedule; a tenth of the captions is empty. Errors are weighted by min(SNR, 5) + 1 in terms
of the clean latents: min-SNR (Hang et al. 2023, gamma 5) with a floor, since min-SNR alone hardly teaches the noisiest
steps, and with latents of 8 x 8 those decide what is where. Half of the timesteps are drawn from the noisier half.

Word order is what such a small text encoder learns last: "a cat on a car" and "a car on a cat" are nearly the same to
it. So a head, dropped after fitting, reads from its last token what the scene holds and in which order.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import reader, world
from .words import LENGTH

SEED = 31
WIDTH = 192
READING = 0.1  # weight of what the text encoder's last token is read as


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
    """Text encoder and denoiser, fitted together, and the head that reads the scene from the encoder's last token."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text, self.unet = text, unet
        self.read = torch.nn.Linear(WIDTH, sum(sum(group.values()) for group in reader.ANSWERS))

    def forward(self, noisy, timesteps, tokens):
        told = self.text(tokens)
        return self.unet(noisy, timesteps, told.last_hidden_state).sample, self.read(told.pooler_output)


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
        times[: batch // 2] = 500 + times[: batch // 2] // 2
        keep = alphas[times].view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            found, read = painter(keep.sqrt() * clean + (1 - keep).sqrt() * noise, times, tokens)
        errors = (found.float() - noise).square().mean((1, 2, 3))
        told = [i for i, caption in enumerate(captions) if caption]
        reading = reader.reading_loss(read[told].float(), [scenes[chosen[i]] for i in told])
        value = (weights[times] * errors).mean() + READING * reading
        return value, {"mse": round(float(errors.mean().detach()), 4), "read": round(float(reading.detach()), 3)}

    return loss
