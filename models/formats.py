"""Adapters as tensors by name, and as files that load everywhere.

Written are kohya's names with an explicit alpha, in float16; read are kohya's (with diffusers' or CompVis' module
names), diffusers', PEFT's and ComfyUI's own.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .checkpoint_files import open_tensors, other_kind
from .errors import FewShotError
from .families import FAMILIES, Family, family_named
from .lora_metadata import embedding_metadata, lora_metadata
from .lora_names import flat_name, known_name, path_of
from .values import Adapter, Dense, Factor, Kept, LowRank

__all__ = ["from_tensors", "read_lora", "to_kohya", "write_embedding", "write_lora"]


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
)
_ENDING = re.compile("|".join(f"(?P<e{i}>{pattern})$" for i, (pattern, _) in enumerate(_ENDINGS)))
_KEPT = re.compile(r"\.(hada_\w+|lokr_\w+|oft_\w+|dora_scale|w_norm|b_norm|on_input|glora_\w+|[ab][12]\.weight)$")
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
    groups, embeddings, strangers = _grouped(tensors, layers_per_block)
    if not groups and not embeddings:
        kind = other_kind(tensors)
        seen = "a LoRA of another family of models" if kind == "a LoRA" else f"{kind}, not a LoRA"
        raise FewShotError(f"this is {seen}: choose a LoRA of Stable Diffusion 1.x, 2.x or SDXL")
    if strangers:
        raise FewShotError(
            f"{len(strangers)} of {len(tensors)} tensors have no place in Stable Diffusion 1.x, 2.x or SDXL "
            f"(first {strangers[0]}): the LoRA is for another family of models"
        )
    factors = {path: _factor(path, parts) for path, parts in groups.items()}
    name = family or _family_of(factors, metadata)
    family_named(name)
    return Adapter(factors, name, metadata.get("modelspec.trigger_phrase", ""), embeddings, metadata)


def _grouped(
    tensors: Mapping[str, Tensor], layers_per_block: int
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], list[str]]:
    """Tensors by module path and ending; bundled embeddings; and keys that are neither."""
    groups: dict[str, dict[str, Tensor]] = {}
    embeddings: dict[str, Tensor] = {}
    strangers = []
    for key in tensors:
        if key.startswith("bundle_emb."):
            kind = key.rpartition(".")[2]
            embeddings[kind if kind in ("clip_l", "clip_g", "clip_h") else "clip_l"] = tensors[key].float()
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
        down = parts["lora_down.weight"].float()
        alpha = float(parts["alpha"]) if "alpha" in parts else float(down.shape[0])
        mid = parts["lora_mid.weight"].float() if "lora_mid.weight" in parts else None
        return LowRank(parts["lora_up.weight"].float(), down, alpha, mid)
    if names & _PAIR and not _PAIR <= names:
        seen = ", ".join(sorted(names))
        raise FewShotError(f"{path} has only half of its low-rank pair ({seen}): the file is damaged")
    return Kept(parts)


def _family_of(factors: Mapping[str, Factor], metadata: Mapping[str, str]) -> str:
    stated = metadata.get("ss_base_model_version", ""), metadata.get("modelspec.architecture", "")
    for family in FAMILIES.values():
        if stated[0] == family.base_model_version or stated[1] in family.architectures:
            return family.name
    if stated[0].startswith("sdxl") or any(path.startswith("text_encoder_2.") for path in factors):
        return "sdxl"
    widths = {
        factor.down.flatten(1).shape[1]
        for path, factor in factors.items()
        if isinstance(factor, LowRank) and path.endswith(("attn2.to_k", "attn2.to_v"))
    }
    by_width = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
    if len(widths) == 1 and (width := widths.pop()) in by_width:
        return by_width[width]
    raise FewShotError("the LoRA does not say which family of models it is for, nor do its shapes: name the family")


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
    _check_finite(tensors)
    metadata = lora_metadata(adapter, tensors, path.stem)
    bundle = _bundle(adapter, path.stem)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            _same({key: written[key] for key in written}, tensors | bundle)
            _check_names([key for key in written if key not in bundle], family)

    return _write(path, tensors | bundle, metadata, check)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise FewShotError(f"{key} is not finite in float16: training diverged; use a lower learning rate")


def _bundle(adapter: Adapter, name: str) -> dict[str, Tensor]:
    """The embeddings as A1111 reads them from a LoRA file."""
    if not adapter.embeddings:
        return {}
    if set(adapter.embeddings) == {"clip_l"}:
        return {f"bundle_emb.{name}.string_to_param.*": adapter.embeddings["clip_l"].half().contiguous()}
    return {f"bundle_emb.{name}.{kind}": v.half().contiguous() for kind, v in adapter.embeddings.items()}


def _check_names(keys: list[str], family: Family) -> None:
    strange = [key for key in keys if not known_name(_split_key(key)[0], family)]
    if strange:
        raise FewShotError(
            f"{len(strange)} of {len(keys)} names would not load as a LoRA of {family.title} (first {strange[0]})"
        )


def _same(written: Mapping[str, Tensor], meant: Mapping[str, Tensor]) -> None:
    if set(written) != set(meant) or any(not torch.equal(written[key], meant[key]) for key in meant):
        raise FewShotError("the file on disk differs from what was written: the disk or the folder is faulty")


def read_lora(path: Path) -> Adapter:
    """The adapter in a LoRA file of any known naming. Raises FewShotError for another kind of file."""
    with open_tensors(Path(path)) as (tensors, metadata):
        try:
            return from_tensors({key: tensors[key].clone() for key in tensors}, metadata)
        except FewShotError as error:
            raise FewShotError(f"{Path(path).name}: {error}") from error


def write_embedding(adapter: Adapter, path: Path) -> Path:
    """Write the adapter's embeddings as a textual-inversion file, with the same care as `write_lora`.

    One encoder's vectors go under "emb_params", SDXL's under "clip_l" and "clip_g".
    """
    if not adapter.embeddings:
        raise FewShotError("the adapter has no learned embeddings, so there is no embedding to save")
    vectors = {kind: vector.detach().cpu().float().contiguous() for kind, vector in adapter.embeddings.items()}
    if len(family_named(adapter.family).text_encoders) == 1:
        vectors = {"emb_params": next(iter(vectors.values()))}
    _check_finite(vectors)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            _same({key: written[key] for key in written}, vectors)

    return _write(path, vectors, embedding_metadata(adapter, path.stem), check)


def _write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], check: Callable[[Path], None]
) -> Path:
    """Draft, check, then name; the name is given in a way that fails when it is taken."""
    path = Path(path)
    if path.exists():
        raise FewShotError(f"{path.name} exists already in {path.parent}, and is not written over: choose another name")
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.draft.safetensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(dict(tensors), draft, dict(metadata))
        check(draft)
        _name(draft, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise FewShotError(f"{path} cannot be written ({error}): check the folder and the free space") from error
    finally:
        draft.unlink(missing_ok=True)
    return path


def _name(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)
    except FileExistsError:
        raise FewShotError(f"{path.name} exists already in {path.parent}: choose another name") from None
    except OSError:  # a file system without hard links
        if path.exists():
            raise FewShotError(f"{path.name} exists already in {path.parent}: choose another name") from None
        draft.replace(path)
