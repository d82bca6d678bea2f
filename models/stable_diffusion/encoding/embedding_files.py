"""Vectors of textual-inversion files, in all forms that ComfyUI reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ....core.weight_files import check_dense, load_pickled, open_tensors

BUNDLE = "bundle_emb."  # prefix of the embeddings in a LoRA's file


def embedding_vectors(path: Path, kind: str, width: int) -> Tensor:
    """The vectors (n, width) that the file has for one text encoder, "clip_l", "clip_g" or "clip_h".

    Raises:
        FewShotError: the file cannot be read safely, or its vectors are for another text encoder.
    """
    if path.suffix == ".safetensors":
        with open_tensors(path) as (tensors, _):
            found = _chosen({key: tensors[key] for key in tensors}, kind, width)
    else:
        found = _chosen(load_pickled(path), kind, width)
    if found is not None:
        check_dense(f"the embedding {path.name}", found)
    if found is None or found.dim() not in (1, 2) or found.shape[-1] != width or not found.isfinite().all():
        shape = "no vectors" if found is None else f"vectors of the shape {tuple(found.shape)}"
        raise FewShotError(
            f"the embedding {path.name} has {shape} for {kind}, and this base's text encoder takes {width} numbers "
            "each: it was made for another family, or is damaged. Take it out of the prompt, or choose another base"
        )
    return found.detach().float().reshape(-1, width)


def _chosen(given: Any, kind: str, width: int) -> Tensor | None:
    """What ComfyUI takes of a file: of several entries the one for `kind`, else the first."""
    if isinstance(given, list):
        every = [tensor for part in given if isinstance(part, Mapping) for tensor in part.values()]
        own = [tensor for tensor in every if isinstance(tensor, Tensor) and tensor.shape[-1:] == (width,)]
        return torch.cat([tensor.reshape(-1, width) for tensor in own]) if own else None
    if not isinstance(given, Mapping):
        return None
    if isinstance(inner := given.get("string_to_param"), Mapping):
        given = inner
    elif kind not in given:
        for ending in (".string_to_param.*", f".{kind}"):
            own = [given[key] for key in given if key.startswith(BUNDLE) and key.endswith(ending)]
            if own:
                return torch.cat([tensor.reshape(-1, tensor.shape[-1]) for tensor in own])
    found = given[kind] if kind in given else next(iter(given.values()), None)
    return found if isinstance(found, Tensor) else None
