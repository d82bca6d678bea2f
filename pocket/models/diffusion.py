"""The pocket's text encoder and denoiser, and the loss that trains them together on latents.

Epsilon prediction on the SD schedule; a tenth of the captions is empty. Errors are weighted by min(SNR, 5) + 1 in terms
of the clean latents: min-SNR (Hang et al. 2023, gamma 5) with a floor, since min-SNR alone hardly teaches the noisiest
steps, and with latents of 8 x 8 those decide what is where. Half of the timesteps are drawn from the noisier half.

Text encoder and denoiser do not learn word order together within the training time: neither gains before the other has
it ("a cat on a car" and "a car on a cat" stayed a toss-up after 600,000 pictures). So two auxiliary heads, dropped
after training, predict from the encoder's states: at the thing that is named last, whether it is the scene's first or
second (which is upper, which is behind), and at the last token what the scene holds.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..world import world
from ..world.words import LENGTH
from . import reader

SEED = 31
WIDTH = 192
READING_WEIGHT, ORDER_WEIGHT = 0.1, 0.5  # weights of the auxiliary heads' losses
ORDERED_LAYOUTS = ("stacked", "behind")  # the layouts in which it matters which thing is which


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


class TextConditionedDenoiser(torch.nn.Module):
    """Text encoder and denoiser, trained together, with heads that read the scene and its order from the encoder."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text, self.unet = text, unet
        self.read = torch.nn.Linear(WIDTH, sum(sum(group.values()) for group in reader.ANSWERS))
        self.role = torch.nn.Linear(WIDTH, 2 * len(ORDERED_LAYOUTS))

    def forward(self, noisy, timesteps, tokens):
        text_output = self.text(tokens)
        return self.unet(noisy, timesteps, text_output.last_hidden_state).sample, text_output


def order_of(scenes: list, tokens: torch.Tensor, nouns: dict[str, int]) -> tuple[list[int], list[int], list[int]]:
    """Of the scenes whose order matters: their rows, the token position of the thing named last, and what it is.

    `tokens` (B, L) are the captions' ids, `nouns` the classes' ids. What it is counts from 0 to 2 * len(ORDERED) - 1.
    """
    rows, places, roles = [], [], []
    for row, scene in enumerate(scenes):
        if scene is None or scene.layout not in ORDERED_LAYOUTS:
            continue
        where = [tokens[row].tolist().index(nouns[thing.noun]) for thing in scene.things]
        last = int(where[1] > where[0])
        rows.append(row)
        places.append(where[last])
        roles.append(2 * ORDERED_LAYOUTS.index(scene.layout) + last)
    return rows, places, roles


def loss_of(
    model: TextConditionedDenoiser,
    tokenizer,
    latents: torch.Tensor,
    scenes: list,
    device: torch.device,
    batch: int = 32,
):
    """`latents` (N, 8, 8, 8) fp16 are scaled; `scenes` are their contents. Captions are drawn anew in every step."""
    alphas = build_schedule().alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weights = (snr.clamp(max=5) + 1) / snr
    nouns = {noun: tokenizer(noun, add_special_tokens=False).input_ids[0] for noun in world.CLASSES}

    def loss(step: int):
        rng = world.rng_of(SEED, step)
        chosen = rng.integers(len(scenes), size=batch)
        captions = ["" if rng.random() < 0.1 else world.caption(scenes[i], rng) for i in chosen]
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        clean = latents[torch.from_numpy(chosen)].to(device).float()
        generator = torch.Generator().manual_seed(SEED * 10**7 + step)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        times = torch.randint(0, 1000, (batch,), generator=generator).to(device)
        times[: batch // 2] = 500 + times[: batch // 2] // 2
        alpha_bars = alphas[times].view(-1, 1, 1, 1)
        with torch.autocast(device.type, torch.bfloat16):
            prediction, text_output = model(alpha_bars.sqrt() * clean + (1 - alpha_bars).sqrt() * noise, times, tokens)
        errors = (prediction.float() - noise).square().mean((1, 2, 3))
        named_scenes = [scenes[i] if caption else None for i, caption in zip(chosen, captions, strict=True)]
        reading, order = auxiliary_losses(model, text_output, named_scenes, tokens, nouns)
        value = (weights[times] * errors).mean() + READING_WEIGHT * reading + ORDER_WEIGHT * order
        numbers = {"mse": errors.mean(), "read": reading, "order": order}
        return value, {name: round(float(number.detach()), 4) for name, number in numbers.items()}

    return loss


def auxiliary_losses(
    model: TextConditionedDenoiser, text_output, scenes: list, tokens: torch.Tensor, nouns: dict[str, int]
):
    """Losses of the auxiliary heads: the scene from the last token, and the role of the thing named last."""
    rows = [row for row, scene in enumerate(scenes) if scene is not None]
    read = model.read(text_output.pooler_output[rows].float())
    reading = reader.reading_loss(read, [scenes[row] for row in rows])
    rows, places, roles = order_of(scenes, tokens, nouns)
    if not rows:
        return reading, reading.new_zeros(())
    targets = torch.tensor(roles, device=reading.device)
    role_logits = model.role(text_output.last_hidden_state[rows, places].float())
    return reading, torch.nn.functional.cross_entropy(role_logits, targets)
