"""What a family of ComfyUI's networks needs beyond the generic way: one entry a family.

Sources: the classes of comfy.ldm, the model cards' licences, and the settings that trainers of these families ship.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ...core.errors import FewShotError


@dataclass(frozen=True)
class HostedFamily:
    """A family of networks.

    Args:
        name: in files and keys.
        title: for people.
        configs: classes of comfy.supported_models that are of it.
        groups: by layer group a regular expression on whole paths of linear layers within the network; a group that is
            missing is empty. Where text and picture attend jointly, "cross" and "self" are the same layers.
        resolution: the side in pixels that the network was made for.
        size_multiple: what sides in pixels are multiples of.
        shift: of the noise that is trained on: sigma = s u / (1 + (s - 1) u); None for the one pictures are drawn with.
        rank, learning_rate: what trainers of the family use.
        licence: what a person should know of it.
        distilled: beginnings of words in a file's name that say that the network draws in few steps, and a training
            spoils that.
        advice: what to do where it is distilled.
        guidance: the scale of guidance that pictures are drawn with.
        token_limit: tokens of a caption that the network learned from.
        architecture: in the files' metadata.
        encoder: ComfyUI's name for the kind of text encoder.
    """

    name: str
    title: str
    configs: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    resolution: int = 1024
    size_multiple: int = 16
    shift: float | None = None
    rank: int = 16
    learning_rate: float | None = None
    licence: str = ""
    distilled: tuple[str, ...] = ()
    advice: str = ""
    guidance: float | None = 4.0
    token_limit: int = 512
    architecture: str = ""
    encoder: str = ""

    text_encoders: tuple[Any, ...] = ()
    """No encoder of theirs is trained."""
    embeddings: tuple[str, ...] = ()
    is_v2 = False
    implementation = "https://github.com/comfyanonymous/ComfyUI"

    @property
    def base_model_version(self) -> str:
        return self.architecture or self.name

    @property
    def architectures(self) -> tuple[str, str]:
        """ModelSpec's architecture of a LoRA and of an embedding."""
        return f"{self.base_model_version}/lora", f"{self.base_model_version}/textual-inversion"


def _joint(attention: str, feed_forward: str) -> Mapping[str, str]:
    """Groups of networks in which picture and text attend to both at once."""
    both = dict.fromkeys(("attention", "cross", "self"), attention)
    return MappingProxyType({**both, "feed_forward": feed_forward, "attention_ff": f"{attention}|{feed_forward}"})


FAMILIES: Mapping[str, HostedFamily] = MappingProxyType(
    {
        one.name: one
        for one in (
            HostedFamily(
                "z_image",
                "Z-Image",
                ("ZImage",),
                _joint(r"layers\.\d+\.attention\.(qkv|out)", r"layers\.\d+\.feed_forward\.w[123]"),
                shift=2.0,
                rank=32,
                learning_rate=1e-4,
                architecture="z-image",
                encoder="lumina2",
                licence="Apache-2.0",
                distilled=("turbo",),
                advice="train Z-Image Base and use the LoRA on Turbo, or put Z-Image Turbo's training adapter before "
                "this node with Load LoRA: without it Turbo loses its few steps",
            ),
            HostedFamily(
                "flux2",
                "FLUX.2",
                ("Flux2",),
                _joint(
                    r"double_blocks\.\d+\.(img|txt)_attn\.(qkv|proj)|single_blocks\.\d+\.linear[12]",
                    r"double_blocks\.\d+\.(img|txt)_mlp\.[02]",
                ),
                rank=32,
                learning_rate=1e-4,
                architecture="flux-2",
                encoder="flux2",
                guidance=5.0,
                licence="klein 4B is Apache-2.0; klein 9B and dev are for non-commercial use",
                distilled=("klein",),
                advice="train FLUX.2 klein base and use the LoRA on the distilled one, which training spoils",
            ),
        )
    }
)

GENERIC = "comfy_"
"""the first part of the name of a family without an entry"""
# Whatever else draws pictures: the linear layers of the blocks that the network repeats.
_BLOCK = r"[\w.]*?\.\d+\.[\w.]*"
GENERIC_GROUPS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("attention", "cross", "self"), rf"{_BLOCK}(attn|attention)[\w.]*"),
        "attention_ff": rf"{_BLOCK}",
        "feed_forward": rf"{_BLOCK}(mlp|ff|feed_forward)[\w.]*",
    }
)
# How the names of networks begin that draw videos, sounds or shapes, or see; and those that draw pictures all the same.
OTHER_MEDIA = (
    "ACEStep", "Audio", "CogVideoX", "Cosmos", "DepthAnything", "Hunyuan3D", "HunyuanVideo", "Kandinsky5", "LTX",
    "MiniMax", "Mochi", "RT_DETR", "SAM3", "SD_X4", "SV3D", "SVD", "SeedVR", "Stable_Zero123", "StableAudio",
    "TripoSplat", "WAN", "Zero123", "HunyuanImage21Refiner",
)  # fmt: skip
PICTURES = ("CosmosT2IPredict2", "Kandinsky5Image")


def family_of(config: Any) -> HostedFamily:
    """The family of a network by ComfyUI's config of it; one without an entry is trained the generic way.

    Raises:
        FewShotError: the network draws no pictures.
    """
    kind = type(config).__name__
    for family in FAMILIES.values():
        if kind in family.configs:
            return family
    if kind not in PICTURES and kind.startswith(OTHER_MEDIA):
        raise FewShotError(f"this MODEL is a {kind}, which draws no pictures: connect an image model")
    guided_by_number = bool(getattr(config, "unet_config", {}).get("guidance_embed"))  # and not by a second pass
    return HostedFamily(
        f"{GENERIC}{kind.lower()}", kind, (kind,), GENERIC_GROUPS, guidance=1.0 if guided_by_number else 4.0
    )


def what_it_lacks(family: HostedFamily) -> str:
    """What a person should know of a family without an entry; empty for the others."""
    if family.name in FAMILIES:
        return ""
    return (
        f"{family.title} has no entry of its own: all linear layers of its blocks are trained, at the noise that "
        "pictures are drawn with, and its usual rank, rate and licence are not known here"
    )


def distilled_advice(family: HostedFamily, file: str) -> str:
    """What to do instead where a file's name says that the network is distilled; empty where it says nothing."""
    words = re.split("[^a-z0-9]+", file.lower())
    is_base = "base" in words or "raw" in words
    is_distilled = any(word.startswith(family.distilled) for word in words) if family.distilled else False
    return family.advice if is_distilled and not is_base else ""
