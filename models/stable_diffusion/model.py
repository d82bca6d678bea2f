"""Stable Diffusion 1.x, 2.x and SDXL as a `contract.DiffusionModel`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.full_weights import EVERYTHING, modules_with_weights
from ..conditioning import Conditioning, Embeddings, by_shape
from ..memory.costs import MeasuredCosts
from ..public_names import DENOISER_ROOT
from .adapter_family import reads_prompts
from .attention_maps import Captured, Layer, captured, chosen_layers
from .encoding.latents import decode_latents, encode_pictures
from .encoding.prompts import content_tokens, denoise, encode_prompts, time_ids, token_places
from .encoding.weighted_prompts import encode_weighted
from .files.load import autoencoder_dtype
from .files.names import with_text_model
from .networks import Networks

# Which linear layers a group has, as a regular expression on whole module paths. "cross_kv" are the projections of the
# prompt (Kumari et al. 2023, Custom Diffusion); "attention" is the usual choice (Hu et al. 2021).
LAYER_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "cross_kv": r"unet\..*attn2\.to_[kv]",
        "cross": r"unet\..*attn2\.to_(q|k|v|out\.0)",
        "self": r"unet\..*attn1\.to_(q|k|v|out\.0)",
        "attention": r"unet\..*attn[12]\.to_(q|k|v|out\.0)",
        "attention_ff": r"unet\..*(attn[12]\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
        "feed_forward": r"unet\..*ff\.net\.(0\.proj|2)",
        "text": r"text_encoder(_2)?\..*self_attn\.(q|k|v|out)_proj",
    }
)
PROJECTIONS = ("to_q", "to_k", "to_v", "q_proj", "k_proj", "v_proj")


class StableDiffusion(Networks):
    """See `contract.DiffusionModel` for the methods."""

    @property
    def size_multiple(self) -> int:
        return self.downscale * 2 ** (len(self.unet.config.block_out_channels) - 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return self.latent_channels, height // self.downscale, width // self.downscale

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return encode_pictures(self, pixels)

    def decode(self, latents: Tensor) -> Tensor:
        return decode_latents(self, latents)

    def encode_prompts(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return encode_prompts(self, prompts, embeddings)

    def encode_weighted(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return encode_weighted(self, prompts, embeddings)

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
        return by_shape(partial(denoise, self), latents, t, conditioning, sizes)

    def size_conditioning(self, crops: Sequence[Any]) -> Tensor | None:
        if self.unet.config.get("addition_embed_type") != "text_time":
            return None
        rows = [time_ids(self, crop.original, crop.corner, crop.target) for crop in crops]
        return torch.stack(rows).to(self.device)

    @property
    def token_limit(self) -> int:
        return min(encoder.config.max_position_embeddings for encoder in self.text_encoders)

    def count_tokens(self, prompt: str, whole: bool = False) -> int:
        return content_tokens(self, prompt, whole=whole)

    def token_positions(self, prompt: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return token_places(self, prompt, spans)

    def attention_layers(self, height: int, width: int) -> tuple[Layer, ...]:
        return chosen_layers(self.unet, height, width)

    def record_attention(self, layers: Sequence[Layer]) -> AbstractContextManager[Captured]:
        return captured(self.unet, tuple(layers))

    def autoencoder_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return autoencoder_dtype(self.vae.config, dtype)

    def layers(self, group: str) -> Iterator[str]:
        if group == EVERYTHING:
            yield from modules_with_weights(DENOISER_ROOT, self.unet)
        if group not in LAYER_GROUPS:
            return
        pattern = re.compile(LAYER_GROUPS[group])
        for root, network in self.parts().items():
            yield from (path for path in _linear_paths(root, network) if pattern.fullmatch(path))

    def input_name(self, path: str) -> str:
        """Queries, keys and values of one self-attention read the same, and the keys and values of every
        cross-attention read the prompts' states."""
        parent, _, name = path.rpartition(".")
        if parent.endswith((".attn1", ".self_attn")) and name in PROJECTIONS:
            return parent
        return "prompts" if reads_prompts(path) else path

    def activation_costs(self) -> MeasuredCosts:
        half = torch.float16 if self.dtype == torch.float16 else torch.bfloat16
        return MeasuredCosts(self.without_weights(self.dtype), half)

    def checkpointing(self, on: bool) -> None:
        (self.unet.enable_gradient_checkpointing if on else self.unet.disable_gradient_checkpointing)()


def _linear_paths(root: str, network: nn.Module) -> Iterator[str]:
    """Paths of linear layers; text encoders always with `text_model`."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            yield f"{root}.{with_text_model(name) if root != DENOISER_ROOT else name}"
