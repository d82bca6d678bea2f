"""Where a LoRA comes from: what its metadata says was trained, on how many pictures, and with which trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.values import Adapter
from ...models.adapters.metadata import BASE_KEY, BASE_NAME, read_sources

# what the metadata states: by title its entries, the preferred first
ENTRIES = {
    "trigger": ("modelspec.trigger_phrase",),
    "base": (BASE_NAME, "ss_base_model_version", "modelspec.architecture"),
    "pictures": ("ss_num_train_images",),
    "priors": ("ss_num_reg_images",),
    "steps": ("ss_steps", "ss_max_train_steps"),
    "seed": ("ss_seed",),
    "made of": (),
}
NEEDED = ("trigger", "base", "pictures", "steps")
EMPTY = ("", "None", "none")
# stands for an entry that one of several fused adapters lacks
UNKNOWN = "?"


@dataclass(frozen=True)
class Provenance:
    """What a file's metadata states, and what it lacks."""

    stated: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether all `NEEDED` entries are stated."""
        return not self.missing


def provenance(adapter: Adapter) -> Provenance:
    """What the adapter's metadata says; an adapter fresh from training says its trigger itself.

    One that is made of several (fused, or a subject and its refinement) says it of each: "4 + 5" pictures.
    """
    stated = {name: _first(adapter.metadata, entries) for name, entries in ENTRIES.items()}
    stated["trigger"] = stated["trigger"] or adapter.trigger
    stated["base"] = _base(adapter.metadata) or stated["base"] or adapter.family
    if sources := read_sources(adapter.metadata):
        stated |= _of_several(sources, stated["base"])
    unknown = (UNKNOWN, "")
    missing = tuple(name for name in NEEDED if any(part in unknown for part in stated[name].split(" + ")))
    return Provenance({name: value for name, value in stated.items() if value.strip(" +?")}, missing)


def _of_several(sources: Sequence[Mapping[str, Any]], base: str) -> dict[str, str]:
    """The same of an adapter made of several; those that do not name their base have `base`."""
    bases = dict.fromkeys(_base(one) or base for one in sources)
    made = ", ".join(f"{one['strength']:g} x {one.get('trigger') or UNKNOWN}" for one in sources)
    counts = ("pictures", "priors", "steps", "seed")
    joined = {name: " + ".join(_first(one, ENTRIES[name]) or UNKNOWN for one in sources) for name in counts}
    return joined | {"base": ", ".join(bases), "made of": made}


def _base(metadata: Mapping[str, Any]) -> str:
    """The base's name, with the beginning of its key, which tells bases of one name apart."""
    name, key = _first(metadata, (BASE_NAME,)), _first(metadata, (BASE_KEY,))
    return f"{name} ({key[:8]})" if name and key else name


def _first(metadata: Mapping[str, Any], entries: Sequence[str]) -> str:
    return next((str(metadata[one]) for one in entries if str(metadata.get(one, "")) not in EMPTY), "")
