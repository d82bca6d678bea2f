"""The family that an adapter is for, by its name, and the names that the family's files have for layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...core.errors import FewShotError
from ..hosted.families import FAMILIES as HOSTED
from ..hosted.families import GENERIC, HostedFamily
from ..public_names import HOSTED_ROOT
from ..stable_diffusion.variants import FAMILIES

KNOWN = (*FAMILIES, *HOSTED)
"""families by name; besides there are those that ComfyUI knows and no entry is of"""


def family_named(name: str) -> Any:
    """What is known of a family: `title`, `text_encoders`, and what its files say of it.

    Raises:
        FewShotError: there is no such family.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if name in HOSTED:
        return HOSTED[name]
    if re.fullmatch(rf"{GENERIC}[a-z0-9_]+", name):
        return HostedFamily(name, name.removeprefix(GENERIC))
    raise FewShotError(f"'{name}' is not a known family of base models: choose one of {', '.join(KNOWN)}")


def name_in_file(path: str, family: str) -> str:
    """A layer's name in a LoRA file: kohya's for Stable Diffusion, else ComfyUI's own."""
    from ..stable_diffusion.lora_names import flat_name  # which brings diffusers, and nodes are to be listed at once

    return flat_name(path, FAMILIES[family]) if family in FAMILIES else path


def is_known_name(name: str, family: str) -> bool:
    """Whether readers of files of the family know a layer's name."""
    from ..stable_diffusion.lora_names import known_name

    if family in FAMILIES:
        return known_name(name, FAMILIES[family])
    return name.startswith(f"{HOSTED_ROOT}.")


def hosted_family(metadata: Mapping[str, str], layers: Sequence[str], base_family: str | None = None) -> str:
    """The family of a LoRA with ComfyUI's own names of layers: what it says of itself, else that of its base.

    Names do not tell: Z-Image's layers are called as Lumina 2's, and those of FLUX.2 as FLUX.1's.

    Raises:
        FewShotError: neither tells.
    """
    from ..stable_diffusion.lora_names import other_model

    stated = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "").partition("/")[0]
    for name, family in HOSTED.items():
        if family.base_model_version in stated:
            return name
    generic = (text for text in stated if re.fullmatch(rf"{GENERIC}[a-z0-9_]+", text))
    if (found := next(generic, base_family)) and found not in FAMILIES:
        return found
    title = other_model(layers) or "a model that is not known here"
    raise FewShotError(
        f"this is a LoRA of {title} (first name {layers[0]}), which does not say of which: choose the family in Load "
        f"Adapter ({', '.join(HOSTED)}), or a LoRA of Stable Diffusion 1.x, 2.x or SDXL"
    )
