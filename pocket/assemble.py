"""Folders of pocket models: the layout of `pocket/weights`, with whatever weights are given."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from .models import autoencoder, diffusion
from .world import words

WEIGHTS = Path(__file__).parent / "weights"
SHARD = "15MB"  # no file of the repository is larger than 16 MB


def available(weights: Path = WEIGHTS) -> bool:
    """Whether the pocket's base model lies on disk (it is left out of the published pack)."""
    return (weights / "model_index.json").is_file()


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
    forget_origin(folder)
    return folder


def forget_origin(folder: Path) -> None:
    """Take out of the configurations where on this machine the weights came from."""
    for file in folder.rglob("*config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None) is not None:
            file.write_text(json.dumps(config, indent=2) + "\n")


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
