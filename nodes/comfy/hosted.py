"""Bases that are trained in ComfyUI's own networks: their parts, checked or loaded from files, and what is said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...models.hosted import files
from ...models.hosted.families import HostedFamily, distilled_advice, family_of, what_it_lacks
from . import adapter_fit, changes, folders
from .host import comfy
from .native_models import family_of as stable_diffusion_of
from .parts import EMPTY

TRAINING_ADAPTER = re.compile(r"z.?image.?turbo.*training.?adapter", re.IGNORECASE)
"""the LoRA that keeps Z-Image Turbo's few steps while it is trained, by its file's name"""
ON_JOINT_ATTENTION = (
    "picture and text attend to both at once here: cross and self are the same layers, and the text encoder is not "
    "trained"
)


def is_needed(model: Any) -> bool:
    """Whether a MODEL is trained in place: it is no Stable Diffusion, or one whose weights cannot be read out."""
    if stable_diffusion_of(model) is None or getattr(model.model.model_config, "quant_config", None):
        return True
    return any(p.element_size() < 2 for p in model.model.diffusion_model.parameters())


def family_name_of(model: Any) -> str:
    """The family of a MODEL, whichever way it is trained."""
    return family_of(model.model.model_config).name if is_needed(model) else str(stable_diffusion_of(model))


def base_from(model: Any, clip: Any, vae: Any) -> tuple[Any, list[str]]:
    """A base of parts that were loaded in whatever way, and what a person should know of it.

    Raises:
        FewShotError: a part is empty or of another model, or other nodes put something on it beside weights.
    """
    from ...models.hosted.parts import HostedParts
    from ...models.open import base_from_parts

    for name, part in (("MODEL", model), ("CLIP", clip), ("VAE", vae)):
        if part is None or getattr(part, "first_stage_model", part) is None:
            raise FewShotError(f"this {name} is empty; {EMPTY[name]}")
    family = family_of(model.model.model_config)
    changes.check_only_weights(model, clip, vae)
    adapter_fit.check_loras_fit(model, clip)
    _check_vae(vae, model, family)
    file = file_of(model)
    model, notes = _with_training_adapter(model, family, file)
    base = base_from_parts(HostedParts(model, clip, vae, Path(file).stem or family.title))
    return base, [f"{family.title}, trained in ComfyUI's own network", *notes, *_about(family, file)]


def _check_vae(vae: Any, model: Any, family: HostedFamily) -> None:
    wanted = model.model.latent_format.latent_channels
    if vae.latent_channels != wanted:
        raise FewShotError(
            f"this VAE and this MODEL are parts of two models: the VAE's latents have {vae.latent_channels} channels, "
            f"and the MODEL, a {family.title}, reads {wanted}. Connect the VAE that belongs to the MODEL"
        )


def file_of(model: Any) -> str:
    """The name of the file that a MODEL was loaded from; empty where its loader does not say."""
    given = (getattr(model, "cached_patcher_init", None) or (None, ()))[1]
    path = next((one for one in given if isinstance(one, str | Path)), "")
    return Path(path).name


def _with_training_adapter(model: Any, family: HostedFamily, file: str) -> tuple[Any, list[str]]:
    """Z-Image Turbo with its training adapter, where that lies among the LoRAs and nothing is on the MODEL yet."""
    if family.name != "z_image" or not distilled_advice(family, file) or model.patches:
        return model, []
    name = next((name for name in folders.loras() if TRAINING_ADAPTER.search(Path(name).name)), None)
    if name is None:
        return model, [distilled_advice(family, file)]
    tensors = comfy.utils.load_torch_file(str(folders.listed_file("loras", name)), safe_load=True)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)
    return patched, [f"{name} is on while it is trained, so that the LoRA works on Turbo's few steps; it is not saved"]


def _about(family: HostedFamily, file: str) -> list[str]:
    """What is known of the family: its licence, what it lacks, and what a distilled one is good for."""
    lines = [ON_JOINT_ATTENTION] if family.groups.get("cross") == family.groups.get("self") else []
    lines += [f"licence: {family.licence}"] if family.licence else []
    if family.name != "z_image" and (advice := distilled_advice(family, file)):
        lines.append(advice)
    return [*lines, *filter(None, [what_it_lacks(family)])]


# ------------------------------------------------------------------------------------------------------ model files


def load_files(model: str, encoders: Sequence[str], kind: str, vae: str) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of files by their names in ComfyUI's lists."""
    parts = files.load_parts(
        folders.listed_file("diffusion_models", model),
        [folders.listed_file("text_encoders", name) for name in encoders],
        folders.listed_file("vae", vae),
        kind,
        list(map(Path, folders.embedding_folders())),
    )
    return parts.model, parts.clip, parts.vae
