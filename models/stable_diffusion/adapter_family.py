"""Which family an adapter's file is for, by what it says of itself, its names and its shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel

from ...core.errors import FewShotError
from ...core.values import Dense, Factor, LowRank
from ..adapters.apply import fits
from ..adapters.forms.products import input_width
from ..public_names import DENOISER_ROOT
from .files.configs import read_config
from .files.load import empty_text_encoder
from .files.names import with_text_model
from .variants import CONFIGS, FAMILIES

# The width of the prompt's hidden states, which cross-attention's keys and values read.
BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
# How files call themselves: kohya's version of the base and its likes, and ModelSpec's architecture.
_STATED = {
    "sd1": ("sd_v1", "sd_1", "sd1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "sd_2", "sd2", "stable-diffusion-v2"),
    "sdxl": ("sdxl", "stable-diffusion-xl"),
}


def checked_family(
    metadata: Mapping[str, str], factors: Mapping[str, Factor], names: Iterable[str], base_family: str | None = None
) -> str:
    """The family of a LoRA: what it says of itself, else the prompt's width, else the only stock models that it fits.

    Where all that leaves several, kohya's names of text encoders tell one encoder from two, and then `base_family`
    counts. Raises FewShotError where nothing tells.
    """
    if stated := stated_family(metadata):
        return stated
    if any(path.startswith("text_encoder_2.") for path in factors):
        return "sdxl"
    widths = {w for path, factor in factors.items() if reads_prompts(path) and (w := _width(factor)) is not None}
    if len(widths) == 1 and (known := BY_WIDTH.get(next(iter(widths)))):
        return known
    fitting = [] if widths else [name for name in FAMILIES if _fits_stock(factors, name)]
    possible = _by_prefix(fitting or list(FAMILIES), list(names))
    if len(possible) == 1:
        return possible[0]
    if base_family in possible:
        return str(base_family)
    titles = " or ".join(FAMILIES[name].title for name in possible)
    why = "its layers are alike in several" if fitting else "its layers have sizes of no stock model"
    raise FewShotError(
        f"the LoRA does not say which family of models it is for, and {why}: it may be for {titles}. Choose the family "
        f"in Load Adapter ({', '.join(possible)})"
    )


def stated_family(metadata: Mapping[str, str]) -> str | None:
    """The family that a file says it is for."""
    for key in ("ss_base_model_version", "modelspec.architecture"):
        for family, starts in _STATED.items():
            if metadata.get(key, "").lower().startswith(starts):
                return family
    return None


def reads_prompts(path: str) -> bool:
    """Whether the layer at `path` reads the prompt's hidden states."""
    return path.endswith(("attn2.to_k", "attn2.to_v"))


def _width(factor: Factor) -> int | None:
    """How many numbers the factor's linear layer reads; None where its form does not say."""
    if isinstance(factor, Dense):
        return factor.weight.flatten(1).shape[1] if factor.weight.dim() > 1 else None
    if isinstance(factor, LowRank):
        return factor.down.flatten(1).shape[1]
    return input_width(factor.tensors)


def _by_prefix(families: list[str], names: Collection[str]) -> list[str]:
    """The families whose files have names like these: kohya's scripts number the encoders where there are two."""
    if any(name.startswith("lora_te1_") for name in names):
        return ["sdxl"] if "sdxl" in families else families
    if any(name.startswith("lora_te_") for name in names):
        return [name for name in families if name != "sdxl"] or families
    return families


def _fits_stock(factors: Mapping[str, Factor], family: str) -> bool:
    shapes = _stock_shapes(family)
    return all(
        (path in shapes and fits(factor, shapes[path])) or unused_part(path, family) for path, factor in factors.items()
    )


@cache
def _stock_shapes(family: str) -> dict[str, torch.Size]:
    """The shapes of the weights of a family's stock model, by an adapter's paths."""
    folder = CONFIGS / family
    with init_empty_weights():
        parts: dict[str, Any] = {DENOISER_ROOT: UNet2DConditionModel.from_config(read_config(folder, "unet"))}
        for encoder in FAMILIES[family].text_encoders:
            parts[encoder.component] = empty_text_encoder(encoder, read_config(folder, encoder.component))
    return {
        f"{root}.{with_text_model(name.removesuffix('.weight'))}": parameter.shape
        for root, network in parts.items()
        for name, parameter in network.named_parameters()
        if name.endswith(".weight")
    }


def unused_part(path: str, family: str) -> bool:
    """Whether no picture depends on the layer at `path`: projections of prompts that only pooled ones go through, and
    the last layer of an encoder whose states are taken before it."""
    for encoder in FAMILIES[family].text_encoders:
        if path == f"{encoder.component}.text_projection":
            return not encoder.projected
        layers = read_config(CONFIGS / family, encoder.component)["num_hidden_layers"]
        last = [
            f"{encoder.component}.text_model.encoder.layers.{layers + n}."
            for n in range(FAMILIES[family].unused_layers)
        ]
        if last and path.startswith(tuple(last)):
            return True
    return False


def family_of_embedding(metadata: Mapping[str, str], widths: Mapping[str, int]) -> str | None:
    """The family of a learned word whose vectors have these `widths` by encoder; None where nothing tells."""
    for family in FAMILIES.values():
        if metadata.get("modelspec.architecture") in family.architectures:
            return family.name
    if "clip_g" in widths:
        return "sdxl"
    return {768: "sd1", 1024: "sd2"}.get(next(iter(widths.values())))
