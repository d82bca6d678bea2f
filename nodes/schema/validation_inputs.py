"""Which model on the disk validates a training: widgets, and the rule of "auto"."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...vision.places import CLIPS, DINOS, OR_FETCH, is_preference, kind_of_model
from ..comfy import folders
from ..comfy.host import io

log = logging.getLogger(__name__)

AUTO, OFF, NONE = "auto", "off", "none"
OWN = "clip"  # the subfolder of a diffusers base that holds a CLIP of its own
MISSING = (
    "not validated, so the last step is returned: there is no CLIP (put the folder of a transformers CLIPModel, such "
    f"as openai/clip-vit-large-patch14, into models/clip_vision, {OR_FETCH})"
)


def validation_inputs() -> list[io.Input]:
    """Widgets that choose the models that validate."""
    return [
        io.Combo.Input(
            "validation",
            options=[AUTO, OFF, *folders.transformers_folders(CLIPS)],
            default=AUTO,
            optional=True,
            advanced=True,
            tooltip="The CLIP that validates while training, so that the best step is returned: a folder of "
            "transformers in models/clip_vision. auto takes the base's own or the first there; off returns the last.",
        ),
        io.Combo.Input(
            "validation_dino",
            options=[NONE, *folders.transformers_folders(DINOS), *folders.vision_files()],
            default=NONE,
            optional=True,
            advanced=True,
            tooltip="What sees the likeness to the pictures in the CLIP's place: a DINO (a folder of transformers) or "
            "a CLIP's vision tower (a single file as for CLIP Vision Loader) in models/clip_vision. How well prompts "
            "are followed is measured by the CLIP alone.",
        ),
    ]


@dataclass(frozen=True)
class ChosenValidator:
    """The models that validate a training (None where none do) and their names, and a line for the node."""

    validator: Any
    names: str
    note: str


def validator_for(base: Any, settings: Any, clip: str, dino: str) -> ChosenValidator:
    """The validator that the widgets choose for a training on `base`."""
    from ...trainers.validation.image_metrics import Validator

    if clip == OFF or not settings.validates:
        return ChosenValidator(None, "", "not validated: the last step is returned")
    folder = clip_for(base, clip)
    if folder is None:
        reason = (
            MISSING
            if dino == NONE
            else f"{MISSING}; {dino} sees likeness, but how prompts are followed is not measured"
        )
        log.info(reason)
        return ChosenValidator(None, "", reason)
    embedder = None if dino == NONE else folders.seeing_model(dino)
    log.info("validated by the CLIP in %s%s", folder, f", likeness by {embedder}" if embedder else "")
    names = folder.name + (f", likeness by {embedder.name}" if embedder else "")
    return ChosenValidator(Validator(folder, embedder), names, f"validated by {names}")


def comparing_models(base: Any, clip: str = AUTO, dino: str = NONE) -> Any:
    """The models that check whether a training learned, as a `Validator`; None without a CLIP.

    They are those that validate, chosen too where validation is off. Where no DINO is chosen the first on the disk sees
    likeness: what chose the best step is then not what judges it.
    """
    from ...trainers.validation.image_metrics import Validator

    folder = clip_for(base, AUTO if clip == OFF else clip)
    if folder is None:
        return None
    names = [dino] if dino != NONE else list(folders.transformers_folders(DINOS))
    return Validator(folder, folders.seeing_model(names[0]) if names else None)


def clip_for(base: Any, clip: str) -> Path | None:
    """The CLIP of this name; for "auto" the base's own, else the first on the disk that was not trained on human
    preferences, else None."""
    if clip != AUTO:
        return folders.transformers_folder(clip)
    folder = own_clip(base)
    if folder is not None:
        return folder
    names = [name for name in folders.transformers_folders(CLIPS) if not is_preference(name)]
    return folders.transformers_folder(names[0]) if names else None


def own_clip(base: Any) -> Path | None:
    """The CLIP in the folder of a base in diffusers' layout; None without such a base."""
    if base is None:
        return None
    place = getattr(base.location, "components", base.location)
    if not isinstance(place, Path) or kind_of_model(place / OWN) != "clip":
        return None
    return place / OWN
