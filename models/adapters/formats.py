"""Adapters as tensors by name, and as files that load everywhere.

Written are kohya's names, or ComfyUI's own for other families than Stable Diffusion, with an explicit alpha, in
float16; read are kohya's (with diffusers' or CompVis' module names), diffusers', PEFT's and ComfyUI's own.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ...core.files import check_finite, same, write_checked
from ...core.values import BIAS, Adapter, Dense, Factor, Kept
from ...core.weight_files import open_tensors
from .families import family_named, is_known_name, name_in_file
from .forms.endings import split_key
from .forms.lora import ONLY, from_tensors
from .forms.word_rows import TABLE
from .metadata import lora_metadata

__all__ = ["from_tensors", "read_lora", "to_kohya", "write_lora"]


# --------------------------------------------------------------------------------------------------------- tensors


def to_kohya(adapter: Adapter, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """The adapter's factors by their names in files, contiguous, on the CPU. Also what LORA_MODEL carries."""
    tensors: dict[str, Tensor] = {}
    for path, factor in adapter.factors.items():
        name = name_in_file(path, adapter.family)
        for suffix, tensor in _parts(factor).items():
            tensors[f"{name}.{suffix}"] = _stored(tensor, _type_of(path, suffix, tensor, dtype))
    return tensors


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to("cpu", dtype).contiguous()


def _type_of(path: str, suffix: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """`dtype`, or float32 for what it does not hold.

    A LoKr of whole factors, whose alpha counts for nothing, has one of 10^10; and the rows of words are differences of
    rows, whose sums shall be the words' vectors.
    """
    row = path.endswith(f".{TABLE}") and suffix == "lora_down.weight"
    large = suffix == "alpha" and tensor.abs().max() > torch.finfo(dtype).max
    return torch.float32 if row or large else dtype


def _parts(factor: Factor) -> dict[str, Tensor]:
    """A factor's tensors by kohya's suffixes."""
    if isinstance(factor, Kept):
        return dict(factor.tensors)
    if isinstance(factor, Dense):
        return {"diff": factor.weight} | ({} if factor.bias is None else {BIAS: factor.bias})
    parts = {"lora_down.weight": factor.down, "lora_up.weight": factor.up, "alpha": torch.tensor(factor.alpha)}
    more = {"lora_mid.weight": factor.mid, BIAS: factor.bias}
    return parts | {name: part for name, part in more.items() if part is not None}


# ----------------------------------------------------------------------------------------------------------- files


def write_lora(adapter: Adapter, path: Path) -> Path:
    """Write a LoRA file, read it back, check every key and value, and only then give it its name.

    A name once used is never written over. Raises FewShotError when the name is taken, the disk refuses, or the
    adapter holds what readers of kohya's files would not load.
    """
    if not adapter.factors:
        raise FewShotError("the adapter changes no weights, so there is no LoRA to save")
    tensors = to_kohya(adapter)
    check_finite(tensors)
    metadata = lora_metadata(adapter, tensors, path.stem)
    bundle = _bundle(adapter)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            same({key: written[key] for key in written}, tensors | bundle)
            _check_names([key for key in written if key not in bundle], adapter.family)

    return write_checked(path, tensors | bundle, metadata, check)


def _bundle(adapter: Adapter) -> dict[str, Tensor]:
    """The learned words as A1111 reads them from a LoRA file: under their own names, so that the trigger works."""
    alone = len(family_named(adapter.family).text_encoders) == 1
    return {
        f"bundle_emb.{word}.{f'{ONLY}.*' if alone else kind}": vectors.detach().to("cpu", torch.float16).contiguous()
        for word, of in adapter.embeddings.items()
        for kind, vectors in of.items()
    }


def _check_names(keys: list[str], family: str) -> None:
    strange = [key for key in keys if not is_known_name(split_key(key)[0], family)]
    if strange:
        raise FewShotError(
            f"{len(strange)} of {len(keys)} names would not load as a LoRA of {family_named(family).title} "
            f"(first {strange[0]})"
        )


def read_lora(
    path: Path, family: str | None = None, base_family: str | None = None, notes: list[str] | None = None
) -> Adapter:
    """The adapter in a LoRA file of any known naming and form; see `from_tensors`. FewShotError for another file."""
    with open_tensors(Path(path)) as (tensors, metadata):
        try:
            return from_tensors({key: tensors[key].clone() for key in tensors}, metadata, family, base_family, notes)
        except FewShotError as error:
            raise FewShotError(f"{Path(path).name}: {error}") from error
