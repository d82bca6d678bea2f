"""Which family an adapter's file is for, by what it says of itself, its names and its shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .variants import FAMILIES

# The width of the prompt's hidden states, which cross-attention's keys and values read.
BY_WIDTH = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


def reads_prompts(path: str) -> bool:
    """Whether the layer at `path` reads the prompt's hidden states."""
    return path.endswith(("attn2.to_k", "attn2.to_v"))


def family_of_lora(metadata: Mapping[str, str], paths: Collection[str], widths: Collection[int]) -> str | None:
    """The family of a LoRA; None where nothing tells.

    Args:
        paths: of the layers that it changes.
        widths: of the inputs of those that read prompts, where their form says it.
    """
    stated = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    for family in FAMILIES.values():
        if stated[0] == family.base_model_version or stated[1] in family.architectures:
            return family.name
    if stated[0].startswith("sdxl") or any(path.startswith("text_encoder_2.") for path in paths):
        return "sdxl"
    return BY_WIDTH.get(next(iter(widths))) if len(widths) == 1 else None


def family_of_embedding(metadata: Mapping[str, str], widths: Mapping[str, int]) -> str | None:
    """The family of a learned word whose vectors have these `widths` by encoder; None where nothing tells."""
    for family in FAMILIES.values():
        if metadata.get("modelspec.architecture") in family.architectures:
            return family.name
    if "clip_g" in widths:
        return "sdxl"
    return {768: "sd1", 1024: "sd2"}.get(next(iter(widths.values())))
