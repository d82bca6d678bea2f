"""Stock networks without weights, as an opened model: what does not depend on weights can be seen at full size."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from comfyui_fewshot.core.values import BaseModelRef
from comfyui_fewshot.models.memory.costs import MeasuredCosts
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.models.stable_diffusion.files.configs import read_config
from comfyui_fewshot.models.stable_diffusion.files.load import empty_text_encoder
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.models.stable_diffusion.variants import CONFIGS, FAMILIES


class Words(SimpleNamespace):
    """A tokenizer of no words, whose prompts are padding alone."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 2

    def __call__(self, text: str, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[3] * len(text.split()))

    def __hash__(self) -> int:
        return 0


@cache
def stock_model(name: str, **unet: Any) -> StableDiffusion:
    """The stock model of a family; `unet` are other values of the denoiser's config."""
    folder, family = CONFIGS / name, FAMILIES[name]
    with torch.device("meta"):
        denoiser = UNet2DConditionModel.from_config({**read_config(folder, "unet"), **unet})
        networks = [
            denoiser,
            AutoencoderKL.from_config(read_config(folder, "vae")),
            *(empty_text_encoder(one, read_config(folder, one.component)) for one in family.text_encoders),
        ]
    for network in networks:
        network.requires_grad_(False).eval()
    return StableDiffusion(
        networks[0], networks[1], tuple(networks[2:]), (Words(),) * len(family.text_encoders),
        DDPM(torch.linspace(0.99, 0.01, 1000), "epsilon"), family, torch.device("meta"), torch.float32,
        BaseModelRef(name, Path(name), name),
    )  # fmt: skip


@cache
def stock_costs(name: str, **unet: Any) -> MeasuredCosts:
    return stock_model(name, **unet).activation_costs()
