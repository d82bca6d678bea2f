"""Adapters as tensors by name, and as files that load everywhere.

Written are kohya's names with an explicit alpha, in float16; read are kohya's (with diffusers' or CompVis' module
names), diffusers', PEFT's and ComfyUI's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ...core.files import check_finite, same, write_checked
from ...core.values import Adapter, Dense, Factor, Kept, LowRank
from ...core.weight_files import LORA, open_tensors, other_kind
from ..stable_diffusion.adapter_family import family_of_lora, reads_prompts
from ..stable_diffusion.lora_names import flat_name, known_name, path_of
from ..stable_diffusion.variants import Family, family_named
from .lycoris import input_width, is_lycoris
from .metadata import lora_metadata

__all__ = ["from_tensors", "read_lora", "to_kohya", "write_lora"]


# --------------------------------------------------------------------------------------------------------- tensors


def to_kohya(adapter: Adapter, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The adapter's factors by kohya's names, contiguous, on the CPU. Also what LORA_MODEL carries."""
    family = family_named(adapter.family)
    tensors: dict[str, Tensor] = {}
    for path, factor in adapter.factors.items():
        name = flat_name(path, family)
        for suffix, tensor in _parts(factor).items():
            tensors[f"{name}.{suffix}"] = tensor.detach().to("cpu", dtype).contiguous()
    return tensors


def _parts(factor: Factor) -> dict[str, Tensor]:
    """A factor's tensors by kohya's suffixes."""
    if isinstance(factor, Kept):
        return dict(factor.tensors)
    if isinstance(factor, Dense):
        return {"diff": factor.weight} | ({} if factor.bias is None else {"diff_b": factor.bias})
    parts = {"lora_down.weight": factor.down, "lora_up.weight": factor.up, "alpha": torch.tensor(factor.alpha)}
    return parts | ({} if factor.mid is None else {"lora_mid.weight": factor.mid})


# In order: endings of the namings in use, and kohya's for the same tensor.
_ENDINGS: tuple[tuple[str, str], ...] = (
    (r"\.lora_up\.weight", "lora_up.weight"),
    (r"\.lora_down\.weight", "lora_down.weight"),
    (r"\.lora_mid\.weight", "lora_mid.weight"),
    (r"[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight|\.lora_B(\.\w+)?\.weight|\.lora_B", "lora_up.weight"),
    (r"[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight|\.lora_A(\.\w+)?\.weight|\.lora_A", "lora_down.weight"),
    (r"\.alpha", "alpha"),
    (r"\.diff", "diff"),
    (r"\.diff_b", "diff_b"),
    (r"\.lora_magnitude_vector(\.\w+)*", "dora_scale"),  # PEFT's name of it
)
_ENDING = re.compile("|".join(f"(?P<e{i}>{pattern})$" for i, (pattern, _) in enumerate(_ENDINGS)))
_KEPT = re.compile(r"\.(hada_\w+|lokr_\w+|oft_\w+|dora_scale|w_norm|b_norm|on_input|glora_\w+|[ab][12]\.weight)$")
_BUNDLED = re.compile(r"bundle_emb\.(.+)\.(?:(clip_[lgh])|string_to_param\.[^.]*)")
TRIGGER = "modelspec.trigger_phrase"
ONLY = "string_to_param"
"""what A1111 calls the vectors of a model's only text encoder"""
_PAIR = {"lora_up.weight", "lora_down.weight"}


def from_tensors(
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    family: str | None = None,
    layers_per_block: int = 2,
) -> Adapter:
    """The adapter that LoRA tensors in any of the known namings stand for.

    `family` is found in the metadata or the tensors when it is not given. A pair without alpha has the strength 1
    (alpha = rank), as every reader takes it. Raises FewShotError when the tensors are no LoRA of a supported family.
    """
    metadata = dict(metadata or {})
    groups, bundled, strangers = _grouped(tensors, layers_per_block)
    if not groups and not bundled:
        kind = other_kind(tensors)
        what = "a LoRA of another family of models" if kind == LORA else f"{kind}, not a LoRA"
        raise FewShotError(f"this is {what}: choose a LoRA of Stable Diffusion 1.x, 2.x or SDXL")
    if strangers:
        raise FewShotError(
            f"{len(strangers)} of {len(tensors)} tensors have no place in Stable Diffusion 1.x, 2.x or SDXL "
            f"(first {strangers[0]}): the LoRA is for another family of models"
        )
    factors = {path: _factor(path, parts) for path, parts in groups.items()}
    name = family or _family_of(factors, metadata)
    only = family_named(name).embeddings[0]  # what a file of one encoder leaves unsaid
    embeddings = {word: {only if kind == ONLY else kind: v for kind, v in of.items()} for word, of in bundled.items()}
    return Adapter(factors, name, metadata.get(TRIGGER, ""), embeddings, metadata)


def _grouped(
    tensors: Mapping[str, Tensor], layers_per_block: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]], list[str]]:
    """Tensors by module path and ending; bundled embeddings by word and kind; and keys that are neither."""
    groups: dict[str, dict[str, Tensor]] = {}
    embeddings: dict[str, dict[str, Tensor]] = {}
    strangers = []
    for key in tensors:
        found = _BUNDLED.fullmatch(key)
        if found:
            embeddings.setdefault(found[1], {})[found[2] or ONLY] = tensors[key].float()
            continue
        name, ending = _split_key(key)
        path = path_of(name, layers_per_block) if ending else None
        if path is None:
            strangers.append(key)
        else:
            groups.setdefault(path, {})[ending] = tensors[key]
    return groups, embeddings, strangers


def _split_key(key: str) -> tuple[str, str]:
    """A key's module name and kohya's ending of it; the ending is empty for what is no part of a LoRA."""
    found = _ENDING.search(key)
    if found:
        return key[: found.start()], _ENDINGS[int(found.lastgroup[1:])][1]  # type: ignore[index]
    kept = _KEPT.search(key)
    return (key[: kept.start()], kept[1]) if kept else (key, "")


def _factor(path: str, parts: dict[str, Tensor]) -> Factor:
    names = set(parts)
    if "diff" in names and names <= {"diff", "diff_b"}:
        return Dense(parts["diff"].float(), parts["diff_b"].float() if "diff_b" in parts else None)
    if _PAIR <= names and names <= _PAIR | {"alpha", "lora_mid.weight"}:
        return _pair(path, parts)
    if names & _PAIR and not _PAIR <= names:
        what = ", ".join(sorted(names))
        raise FewShotError(f"{path} has only half of its low-rank pair ({what}): the file is damaged")
    if "dora_scale" in names:
        parts["dora_scale"] = _upright(parts["dora_scale"])
    return Kept(parts)


def _pair(path: str, parts: Mapping[str, Tensor]) -> LowRank:
    up, down = parts["lora_up.weight"].float(), parts["lora_down.weight"].float()
    mid = parts["lora_mid.weight"].float() if "lora_mid.weight" in parts else None
    alpha = parts["alpha"].float() if "alpha" in parts else torch.tensor(float(down.shape[0] if down.dim() else 0))
    shapes = f"{tuple(up.shape)} and {tuple(down.shape)}, alpha {tuple(alpha.shape)}"
    if min(up.dim(), down.dim()) < 2 or not up.shape[1] == down.shape[0] >= 1 or alpha.numel() != 1:
        raise FewShotError(f"the low-rank pair of {path} does not fit together ({shapes}): the file is damaged")
    if not all(torch.isfinite(part).all() for part in (up, down, alpha, *([] if mid is None else [mid]))):
        raise FewShotError(
            f"{path} holds numbers that are not finite (NaN): the file is damaged or its training diverged"
        )
    return LowRank(up, down, float(alpha), mid)


def _upright(lengths: Tensor) -> Tensor:
    """DoRA's lengths (out, 1), as kohya has them; PEFT writes (out,)."""
    return lengths.view(-1, 1) if lengths.dim() == 1 else lengths


def _family_of(factors: Mapping[str, Factor], metadata: Mapping[str, str]) -> str:
    widths = {w for path, factor in factors.items() if reads_prompts(path) and (w := _width(factor)) is not None}
    name = family_of_lora(metadata, factors.keys(), widths)
    if name is None:
        raise FewShotError("the LoRA does not say which family of models it is for, nor do its shapes: name the family")
    return name


def _width(factor: Factor) -> int | None:
    """How many numbers the factor's linear layer reads; None where its form does not say."""
    if isinstance(factor, Dense):
        return factor.weight.flatten(1).shape[1]
    if isinstance(factor, LowRank):
        return factor.down.flatten(1).shape[1]
    if "lora_down.weight" in factor.tensors:  # a DoRA
        return factor.tensors["lora_down.weight"].flatten(1).shape[1]
    return input_width(factor.tensors) if is_lycoris(factor.tensors) else None


# ----------------------------------------------------------------------------------------------------------- files


def write_lora(adapter: Adapter, path: Path) -> Path:
    """Write a LoRA file, read it back, check every key and value, and only then give it its name.

    A name once used is never written over. Raises FewShotError when the name is taken, the disk refuses, or the
    adapter holds what readers of kohya's files would not load.
    """
    family = family_named(adapter.family)
    if not adapter.factors:
        raise FewShotError("the adapter changes no weights, so there is no LoRA to save")
    tensors = to_kohya(adapter)
    check_finite(tensors)
    metadata = lora_metadata(adapter, tensors, path.stem)
    bundle = _bundle(adapter)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            same({key: written[key] for key in written}, tensors | bundle)
            _check_names([key for key in written if key not in bundle], family)

    return write_checked(path, tensors | bundle, metadata, check)


def _bundle(adapter: Adapter) -> dict[str, Tensor]:
    """The learned words as A1111 reads them from a LoRA file: under their own names, so that the trigger works."""
    alone = len(family_named(adapter.family).text_encoders) == 1
    return {
        f"bundle_emb.{word}.{f'{ONLY}.*' if alone else kind}": vectors.detach().to("cpu", torch.float16).contiguous()
        for word, of in adapter.embeddings.items()
        for kind, vectors in of.items()
    }


def _check_names(keys: list[str], family: Family) -> None:
    strange = [key for key in keys if not known_name(_split_key(key)[0], family)]
    if strange:
        raise FewShotError(
            f"{len(strange)} of {len(keys)} names would not load as a LoRA of {family.title} (first {strange[0]})"
        )


def read_lora(path: Path) -> Adapter:
    """The adapter in a LoRA file of any known naming. Raises FewShotError for another kind of file."""
    with open_tensors(Path(path)) as (tensors, metadata):
        try:
            return from_tensors({key: tensors[key].clone() for key in tensors}, metadata)
        except FewShotError as error:
            raise FewShotError(f"{Path(path).name}: {error}") from error
