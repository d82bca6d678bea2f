"""Where a LoRA comes from: what its metadata says was trained, on how many pictures, and with which trigger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..models.values import Adapter

SAID = {
    "trigger": ("modelspec.trigger_phrase",),
    "base": ("ss_sd_model_name", "ss_base_model_version", "modelspec.architecture"),
    "pictures": ("ss_num_train_images",),
    "priors": ("ss_num_reg_images",),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "seed": ("ss_seed",),
}
"""what is told, and the entries that may tell it, the best first"""
NEEDED = ("trigger", "base", "pictures", "steps")
NOTHING = ("", "None", "none")


@dataclass(frozen=True)
class Provenance:
    """What a file says of itself, and what it leaves open."""

    said: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is told that a reader needs."""
        return not self.missing


def provenance(adapter: Adapter) -> Provenance:
    """What the adapter's metadata says; an adapter fresh from training says its trigger itself."""
    said = {}
    for name, entries in SAID.items():
        value = next((adapter.metadata[e] for e in entries if adapter.metadata.get(e, "") not in NOTHING), "")
        if name == "trigger":
            value = value or adapter.trigger
        if name == "base":
            value = value or adapter.family
        if value:
            said[name] = value
    return Provenance(said, tuple(name for name in NEEDED if name not in said))
