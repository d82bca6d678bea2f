"""Where a LoRA comes from: what its metadata says was trained, on how many pictures, and with which trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.values import Adapter
from ...models.adapters.metadata import BASE_KEY, BASE_NAME, read_sources

SAID = {
    "trigger": ("modelspec.trigger_phrase",),
    "base": (BASE_NAME, "ss_base_model_version", "modelspec.architecture"),
    "pictures": ("ss_num_train_images",),
    "priors": ("ss_num_reg_images",),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "seed": ("ss_seed",),
    "made of": (),
}
"""what is told, and the entries that may tell it, the best first"""
NEEDED = ("trigger", "base", "pictures", "steps")
NOTHING = ("", "None", "none")
OPEN = "?"
"""what one of several adapters does not tell"""


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
    """What the adapter's metadata says; an adapter fresh from training says its trigger itself.

    One that is made of several (fused, or a subject and its refinement) says it of each: "4 + 5" pictures.
    """
    said = {name: _first(adapter.metadata, entries) for name, entries in SAID.items()}
    said["trigger"] = said["trigger"] or adapter.trigger
    said["base"] = _base(adapter.metadata) or said["base"] or adapter.family
    if sources := read_sources(adapter.metadata):
        said |= _of_several(sources, said["base"])
    left = (OPEN, "")
    missing = tuple(name for name in NEEDED if any(part in left for part in said[name].split(" + ")))
    return Provenance({name: value for name, value in said.items() if value.strip(" +?")}, missing)


def _of_several(sources: Sequence[Mapping[str, Any]], base: str) -> dict[str, str]:
    """The same of an adapter made of several; those that do not name their base have `base`."""
    bases = dict.fromkeys(_base(one) or base for one in sources)
    made = ", ".join(f"{one['strength']:g} x {one.get('trigger') or OPEN}" for one in sources)
    counts = ("pictures", "priors", "steps", "seed")
    told = {name: " + ".join(_first(one, SAID[name]) or OPEN for one in sources) for name in counts}
    return told | {"base": ", ".join(bases), "made of": made}


def _base(metadata: Mapping[str, Any]) -> str:
    """The base's name, with the beginning of its key, which tells bases of one name apart."""
    name, key = _first(metadata, (BASE_NAME,)), _first(metadata, (BASE_KEY,))
    return f"{name} ({key[:8]})" if name and key else name


def _first(metadata: Mapping[str, Any], entries: Sequence[str]) -> str:
    return next((str(metadata[one]) for one in entries if str(metadata.get(one, "")) not in NOTHING), "")
