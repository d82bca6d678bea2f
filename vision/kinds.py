"""What a folder of transformers holds that sees, by its config.json. Without torch: menus are built with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSIFIER = "vit classifier"
"""a ViT that was taught labels: it has DINO's network, and sees classes where DINO sees things"""


def seeing_kind(about: Mapping[str, Any], name: str) -> str | None:
    """The `model_type` that config.json (`about`) of the folder `name` tells; None where it tells none.

    DINO's authors gave the ViT of 2021 no type of its own, so a ViT with a head for labels is told from it here, unless
    its name or its config speaks of DINO.
    """
    kind = about.get("model_type")
    if kind != "vit":
        return kind
    built = " ".join(map(str, about.get("architectures") or ()))
    labels = "ForImageClassification" in built or "id2label" in about or "num_labels" in about
    said = f"{name} {about.get('_name_or_path', '')} {built}".lower()
    return CLASSIFIER if labels and "dino" not in said else kind
