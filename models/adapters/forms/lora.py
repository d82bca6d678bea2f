"""From the tensors of a LoRA file in any naming to an adapter."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ....core.values import Adapter, Factor
from ....core.weight_files import LORA, other_kind
from ...public_names import HOSTED_ROOT
from ...stable_diffusion.adapter_family import checked_family, stated_family, unused_part
from ...stable_diffusion.lora_names import other_model, path_of
from ...stable_diffusion.variants import FAMILIES
from ..families import family_named, hosted_family
from .complete import is_rest
from .endings import is_leftover, peft_adapter, refused_form, split_key
from .read import factor_of
from .split import fused

log = logging.getLogger(__name__)

TRIGGER = "modelspec.trigger_phrase"
ONLY = "string_to_param"
"""what A1111 calls the vectors of a model's only text encoder"""
HEADER = "lora_adapter_metadata"
"""the metadata in which diffusers keeps the settings of PEFT, alphas among them"""
_BUNDLED = re.compile(r"bundle_emb\.(.+)\.(?:(clip_[lgh])|string_to_param\.[^.]*)")
_CHOOSE = (
    "choose a LoRA of Stable Diffusion 1.x, 2.x or SDXL, or one of another family whose names begin with "
    "diffusion_model., as ComfyUI's own do"
)
_FIRST = 3  # names that are listed
_SHOWN = 100  # letters that are shown of what a file says


@dataclass
class _Sorted:
    """A file's tensors: by path and ending, words by kind, and the names of all others."""

    groups: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    words: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)  # by name, the form
    strangers: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def from_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    family: str | None = None,
    base_family: str | None = None,
    notes: list[str] | None = None,
) -> Adapter:
    """The adapter that LoRA tensors in any of the known namings and forms stand for.

    Args:
        family: what it is for; None finds out from the metadata, the names or the shapes.
        base_family: the family of the base that it is meant for, which counts where none of them tells.
        notes: where what a person should know is put, besides the log.

    Raises FewShotError when the tensors are no LoRA of a supported family, or of a form that cannot be applied.
    """
    metadata, notes = dict(metadata or {}), [] if notes is None else notes
    found = _sort(tensors)
    _check(tensors, found)
    _check_adapters(tensors)
    _take_alphas(found.groups, metadata, notes)
    for path in [path for path, parts in found.groups.items() if is_rest(parts)]:
        found.leftovers.append(f"{path}.alpha")
        del found.groups[path]
    if not found.groups and not found.words:
        raise FewShotError(f"it holds no layer, only {_listed(found.leftovers)}: the file is damaged; get it again")
    own = [path for path in found.groups if _own_path(path)]
    if own and len(own) < len(found.groups):
        raise FewShotError(f"it holds layers of two models (first {own[0]}): save one LoRA alone")
    hosted = hosted_family(metadata, own, family or base_family) if own else ""
    factors = {path: factor_of(path, parts) for path, parts in found.groups.items()}
    name = family or hosted or checked_family(metadata, factors, tensors, base_family)
    factors = fused(factors, name)
    if bool(own) == (name in FAMILIES):
        raise FewShotError(
            f"its layers (first {next(iter(factors))}) are none of {family_named(name).title}: {_CHOOSE}"
        )
    only = next(iter(family_named(name).embeddings), ONLY)  # what a file of one encoder leaves unsaid
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    if family and (stated := stated_family(metadata) or family) != family:
        notes.append(f"the file says that it is for {family_named(stated).title}, and {family} is chosen")
    elif own and architecture and architecture != family_named(name).base_model_version:
        notes.append(
            f"the file says that it is for {architecture[:_SHOWN]}, and is taken for {family_named(name).title}"
        )
    _leave_out(factors, name, found.leftovers)
    if found.leftovers:
        notes.append(
            f"{len(found.leftovers)} tensors are no part of a LoRA, and are left out: {_listed(found.leftovers)}"
        )
    for note in notes:
        log.warning("%s", note)
    embeddings = {
        word: {only if kind == ONLY else kind: v for kind, v in of.items()} for word, of in found.words.items()
    }
    return Adapter(factors, name, metadata.get(TRIGGER, ""), embeddings, metadata)


def _sort(tensors: Mapping[str, Tensor]) -> _Sorted:
    found = _Sorted()
    for key, tensor in tensors.items():
        if bundled := _BUNDLED.fullmatch(key):
            found.words.setdefault(bundled[1], {})[bundled[2] or ONLY] = vectors_of(key, tensor)
        elif form := refused_form(key):
            found.refused[key] = form
        else:
            name, ending = split_key(key)
            path = (path_of(name) or _own_path(name)) if ending else None
            if path is not None:
                _put(found.groups.setdefault(path, {}), ending, tensor, key)
            else:
                (found.leftovers if is_leftover(key) else found.strangers).append(key)
    return found


def _own_path(name: str) -> str | None:
    """An adapter's path for ComfyUI's own name of a layer."""
    return name if name.startswith(f"{HOSTED_ROOT}.") else None


def vectors_of(name: str, tensor: Tensor) -> Tensor:
    """A word's vectors (tokens, width) in float32. Raises FewShotError for another shape, none, and NaN."""
    if tensor.dim() not in (1, 2) or not tensor.numel() or not tensor.float().isfinite().all():
        raise FewShotError(
            f"{name} of the shape {tuple(tensor.shape)} holds no vectors, or numbers that are not finite (NaN): the "
            "file is damaged"
        )
    return tensor.float().reshape(-1, tensor.shape[-1])


def _put(parts: dict[str, Tensor], ending: str, tensor: Tensor, key: str) -> None:
    if ending in parts:
        raise FewShotError(f"the layer of {key} is there twice, by two names: save the LoRA with one naming")
    parts[ending] = tensor


def _check(tensors: Mapping[str, Tensor], found: _Sorted) -> None:
    """Raise FewShotError that says what the file is, where not all of it is a LoRA that can be used."""
    odd = [*found.strangers, *found.refused]
    adapter = bool(found.refused) or any(split_key(key)[1] for key in tensors)
    if adapter and (title := other_model(odd)):
        raise FewShotError(f"this is a LoRA of {title} (first name {odd[0]}): {_CHOOSE}")
    if found.refused:
        key, form = next(iter(found.refused.items()))
        raise FewShotError(
            f"it holds {form} tensors (first {key}), which cannot be applied, neither here nor by ComfyUI: use a LoRA, "
            "a LoHa or a LoKr"
        )
    if not found.groups and not found.words:
        kind = other_kind(tensors)
        known = adapter or kind == LORA
        what = f"a LoRA of a model that is not known here ({_listed(odd)})" if known else f"{kind}, not a LoRA"
        raise FewShotError(f"this is {what}: {_CHOOSE}")
    if found.strangers:
        first, count = found.strangers[0], f"{len(found.strangers)} of {len(tensors)} tensors"
        if ending := _unknown_ending(first):
            raise FewShotError(
                f"{count} are of a form that is not known ({ending}; first {first}), neither here nor to ComfyUI: use "
                "a LoRA, a LoHa or a LoKr"
            )
        raise FewShotError(
            f"{count} have no place in Stable Diffusion 1.x, 2.x or SDXL (first {first}): they are of layers that "
            "these models do not have. Use a LoRA that was made for one of them"
        )


def _check_adapters(keys: Iterable[str]) -> None:
    """Raise FewShotError where the two of a pair are of two adapters of PEFT, or the file is of several."""
    by_layer: dict[str, set[str]] = {}
    for key in keys:
        if (found := peft_adapter(key)) is not None:
            by_layer.setdefault(found[0], set()).add(found[1])
    for layer, names in by_layer.items():
        if len(names) > 1:
            listed = " and ".join(sorted(name or "one without a name" for name in names))
            raise FewShotError(f"it holds several adapters of PEFT ({listed}, first at {layer}): save one alone")
    if len(names := set().union(*by_layer.values()) - {""}) > 1:
        raise FewShotError(f"it holds several adapters of PEFT ({' and '.join(sorted(names))}): save one alone")


def _unknown_ending(key: str) -> str | None:
    """The ending of a key whose layer is known; None where the layer is not."""
    parts = key.split(".")
    lengths = range(len(parts) - 1, 0, -1)
    whole = next((n for n in lengths if path_of(".".join(parts[:n])) is not None), None)
    return None if whole is None else "." + ".".join(parts[whole:])


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_FIRST]) + (", …" if len(names) > _FIRST else "")


def _leave_out(factors: dict[str, Factor], family: str, leftovers: list[str]) -> None:
    """Leave out what no picture of the family depends on, and what its base models have not."""
    for path in [path for path in factors if family in FAMILIES and unused_part(path, family)]:
        leftovers.append(path)
        del factors[path]


# ---------------------------------------------------------------------------------------------- alphas of the header


def _take_alphas(groups: Mapping[str, dict[str, Tensor]], metadata: Mapping[str, str], notes: list[str]) -> None:
    """Give pairs without an alpha the one that diffusers has put into the header."""
    if HEADER not in metadata:
        return
    try:
        about = json.loads(metadata[HEADER])
        alphas = {path: _alpha_of(path, parts, about) for path, parts in groups.items()}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        notes.append(
            f"the settings in its header ({HEADER}) cannot be read ({str(error)[:_SHOWN]}): each alpha is "
            "taken for the rank"
        )
        return
    given = {path: alpha for path, alpha in alphas.items() if alpha is not None and alpha != _rank(groups[path])}
    for path, alpha in given.items():
        kind = groups[path]["lora_down.weight"].dtype
        groups[path]["alpha"] = torch.tensor(alpha, dtype=torch.float64).to(kind).float()
    if given:
        path, alpha = next(iter(given.items()))
        notes.append(
            f"the alpha of {len(given)} layers is in its header only ({alpha:g} for rank {_rank(groups[path])}) and "
            "counts here, as in diffusers; ComfyUI's own loaders leave it out, and there this file has another strength"
        )


def _rank(parts: Mapping[str, Tensor]) -> int:
    return parts["lora_down.weight"].shape[:1].numel()


def _alpha_of(path: str, parts: Mapping[str, Tensor], about: Mapping) -> float | None:
    """The alpha that PEFT's settings give a pair; its rank-stabilised form divides by the rank's square root."""
    if "lora_down.weight" not in parts or "alpha" in parts:
        return None
    root, _, name = path.partition(".")
    own = {key.removeprefix(f"{root}."): value for key, value in about.items()}
    patterns = own.get("alpha_pattern") or {}
    alpha = next((a for key, a in patterns.items() if _names(key, name)), own.get("lora_alpha"))
    if alpha is None:
        return None
    stabilised = own.get("use_rslora", False)
    if not isinstance(stabilised, bool | None):
        raise TypeError(f"use_rslora is {stabilised!r}, neither true nor false")
    found = float(alpha) * (math.sqrt(_rank(parts)) if stabilised else 1.0)
    if not math.isfinite(found):
        raise ValueError(f"an alpha is {found}")
    return found


def _names(pattern: str, name: str) -> bool:
    """Whether a key of PEFT's alpha_pattern names a layer: by the end of its path, or with ^ by all of it.

    PEFT takes keys for regular expressions; here they are names, since an expression of a file may run for ever.
    """
    own = pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")
    if not re.fullmatch(r"[\w.-]*", own):
        raise ValueError(f"the alpha_pattern {pattern[:_SHOWN]!r} is no layer's name")
    return name == own or (not pattern.startswith("^") and name.endswith(f".{own}"))
