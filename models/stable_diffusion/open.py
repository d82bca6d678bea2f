"""The networks of a Stable Diffusion, read tensor by tensor, cast, and put where they are to work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.values import BaseModelRef
from .ddpm import DDPM
from .files.load import Source, assemble, autoencoder_dtype, build_tokenizer, source_of
from .model import StableDiffusion
from .variants import TextEncoder, family_named


@dataclass(frozen=True)
class Placement:
    """Where networks go: the denoiser to `device`, the others to `waiting`; `dtype` is the compute type."""

    device: torch.device
    waiting: torch.device
    dtype: torch.dtype


def open_networks(
    ref: BaseModelRef, placement: Placement, progress: Progress, tokenizer_folder: Path | None
) -> StableDiffusion:
    """The frozen networks of `ref`; see `models.open.open_base`."""
    family = family_named(ref.family)
    device, dtype = placement.device, placement.dtype
    with source_of(ref, family) as source:
        progress.check()
        tokenizers = tuple(build_tokenizer(source, names, tokenizer_folder) for names in family.text_encoders)
        unet = assemble(UNet2DConditionModel, *source.unet(), device, dtype, strict=True)
        progress.check()
        config, tensors = source.vae()
        vae = assemble(AutoencoderKL, config, tensors, placement.waiting, autoencoder_dtype(config, dtype))
        encoders = []
        for names, tokenizer in zip(family.text_encoders, tokenizers, strict=True):
            progress.check()
            encoders.append(_text_encoder(source, names, tokenizer, placement))
        process = DDPM.from_config(source.scheduler(), ref.prediction, ref.zero_snr).to(device)
    return StableDiffusion(unet, vae, tuple(encoders), tokenizers, process, family, device, dtype, ref)


def _text_encoder(source: Source, names: TextEncoder, tokenizer: Any, placement: Placement) -> Any:
    config, tensors = source.text(names)
    if len(tokenizer) > config["vocab_size"]:
        raise FewShotError(
            f"{names.component} knows {config['vocab_size']} tokens and its tokenizer gives {len(tokenizer)}: "
            "the tokenizer belongs to another model"
        )
    config = {**config, "eos_token_id": tokenizer.eos_token_id}
    return assemble(names, config, tensors, placement.waiting, placement.dtype)
