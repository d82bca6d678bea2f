"""Diffusers folders of the pocket's base model, laid out as `pocket/weights`, with any weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .models import autoencoder, diffusion
from .models.weights import SHARD, remove_origin
from .world import words


def write_base(
    folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer
) -> Path:
    """Write an ordinary diffusers folder in fp16."""
    for name, model in (("unet", unet), ("vae", vae), ("text_encoder", text)):
        model.to(torch.float16).save_pretrained(folder / name, max_shard_size=SHARD)
        model.to(torch.float32)
    words.save(tokenizer, folder / "tokenizer")
    diffusion.build_schedule().save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    remove_origin(folder)
    return folder


def random_folder(folder: Path, seed: int = 0) -> Path:
    """The pocket's base with random weights, for tests of everything but quality."""
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        tokenizer = words.build(folder / "tokenizer")
        unet, vae, text = diffusion.build_unet(), autoencoder.build(), diffusion.build_text(tokenizer)
    finally:
        torch.random.set_rng_state(state)
    return write_base(folder, unet, vae, text, tokenizer)
