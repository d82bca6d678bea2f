"""The families of base models: what differs between SD 1.x, SD 2.x and SDXL besides their sizes.

Sizes (widths, depths, latent channels, scaling factor, prompt length) are never kept here: they come from a model's
configs, so that a model of another size in the same family uses the same code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...core.errors import FewShotError

CONFIGS = Path(__file__).parent / "stock"
"""One folder a family in diffusers' layout, JSON only: the stock sizes."""


@dataclass(frozen=True)
class TextEncoder:
    """One of a family's text encoders. `component` is its folder in diffusers' layout."""

    component: str
    tokenizer: str
    prefix: str
    """kohya's prefix of its LoRA names, without the last underscore"""
    embedding: str
    """its key in embedding files"""
    pad: str | None
    """what fills a prompt up; None is the end-of-text token"""
    original: str
    """its prefix in an original checkpoint"""
    open_clip: bool
    """named as in OpenCLIP in an original checkpoint"""
    projected: bool = False
    """gives the pooled, projected embedding"""


@dataclass(frozen=True)
class Family:
    """What a family's models have in common. `unused_layers` are text layers that the stock configs leave out."""

    name: str
    title: str
    architecture: str
    base_model_version: str
    implementation: str
    text_encoders: tuple[TextEncoder, ...]
    resolution: int
    clip_skip: int
    """the default layer of the prompt's hidden states, counted from the end as A1111 does: 1 is the last"""
    final_norm: bool
    """whether the hidden states pass the text encoder's last layer norm"""
    unused_layers: int = 0
    is_v2: bool = False
    """what kohya's metadata calls v2"""
    epsilon_resolution: int | None = None
    """the resolution of those members that predict noise, where it is another"""
    guidance: float | None = None
    learning_rate: float | None = None
    downscale: int = 8
    """pixels a latent cell of the stock autoencoder; a loaded model's own value is `Networks.downscale`"""

    @property
    def architectures(self) -> tuple[str, str]:
        """ModelSpec's architecture of a LoRA and of an embedding."""
        return f"{self.architecture}/lora", f"{self.architecture}/textual-inversion"

    @property
    def embeddings(self) -> tuple[str, ...]:
        return tuple(encoder.embedding for encoder in self.text_encoders)


_LDM = "https://github.com/CompVis/stable-diffusion"
_SD2 = "https://github.com/Stability-AI/stablediffusion"
_SGM = "https://github.com/Stability-AI/generative-models"

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "sd1": Family(
            name="sd1",
            title="Stable Diffusion 1.x",
            architecture="stable-diffusion-v1",
            base_model_version="sd_v1",
            implementation=_LDM,
            text_encoders=(
                TextEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer",
                    prefix="lora_te",
                    embedding="clip_l",
                    pad=None,
                    original="cond_stage_model.transformer.",
                    open_clip=False,
                ),
            ),
            resolution=512,
            clip_skip=1,
            final_norm=True,
        ),
        "sd2": Family(
            name="sd2",
            title="Stable Diffusion 2.x",
            architecture="stable-diffusion-v2-768-v",
            base_model_version="sd_v2",
            implementation=_SD2,
            text_encoders=(
                TextEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer",
                    prefix="lora_te",
                    embedding="clip_h",
                    pad="!",
                    original="cond_stage_model.model.",
                    open_clip=True,
                ),
            ),
            resolution=768,
            clip_skip=2,
            final_norm=True,
            unused_layers=1,
            is_v2=True,
            epsilon_resolution=512,
        ),
        "sdxl": Family(
            name="sdxl",
            title="Stable Diffusion XL",
            architecture="stable-diffusion-xl-v1-base",
            base_model_version="sdxl_base_v1-0",
            implementation=_SGM,
            text_encoders=(
                TextEncoder(
                    component="text_encoder",
                    tokenizer="tokenizer",
                    prefix="lora_te1",
                    embedding="clip_l",
                    pad=None,
                    original="conditioner.embedders.0.transformer.",
                    open_clip=False,
                ),
                TextEncoder(
                    component="text_encoder_2",
                    tokenizer="tokenizer_2",
                    prefix="lora_te2",
                    embedding="clip_g",
                    pad="!",
                    original="conditioner.embedders.1.model.",
                    open_clip=True,
                    projected=True,
                ),
            ),
            resolution=1024,
            clip_skip=2,
            final_norm=False,
        ),
    }
)


def family_named(name: str) -> Family:
    """The family called `name`. Raises FewShotError that lists the known ones."""
    if name not in FAMILIES:
        raise FewShotError(f"'{name}' is not a known family of base models: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def family_of_config(unet: Mapping[str, Any]) -> Family:
    """The family of a UNet with this diffusers config (SDXL adds size conditioning, SD 2.x projects linearly)."""
    if unet.get("addition_embed_type") == "text_time":
        return FAMILIES["sdxl"]
    return FAMILIES["sd2" if unet.get("use_linear_projection") else "sd1"]
