"""A base model with a trained denoiser, as one file in original names, which ComfyUI and others load."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import FewShotError
from ..core.files import check_finite, same, write_checked
from ..core.values import BaseModelRef, Loaded
from ..core.weight_files import file_hash, open_tensors
from .open import base_from_loaded, base_from_path
from .stable_diffusion.files.checkpoint import PREDICTION_TYPES, assumed_by_comfyui, named_tensors, with_marks
from .stable_diffusion.files.load import source_of
from .stable_diffusion.variants import family_named

log = logging.getLogger(__name__)


def write_checkpoint(
    base: BaseModelRef, changes: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write `base` with `changes` added to its denoiser: float16, read back and checked before it gets its name.

    `changes` are by the denoiser's parameters in diffusers' names; everything else is copied. The prediction type goes
    into the marker tensors and the metadata that loaders read; the log says where ComfyUI reads none. An existing file
    is never overwritten.

    Raises:
        FewShotError: a change has no place in the base, the result is not finite in float16, or the disk refuses.
    """
    family = family_named(base.family)
    left = set(changes)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad(), source_of(base, family) as source:
        for name, tensor, parameter in named_tensors(source, family):
            if parameter in left:
                left.discard(parameter)
                tensor = tensor.float() + changes[parameter].to("cpu", torch.float32).reshape(tensor.shape)
            kept = tensor.to("cpu", torch.float16) if tensor.is_floating_point() else tensor.cpu()
            tensors[name] = kept.clone().contiguous()
    if left:
        raise FewShotError(f"{len(left)} trained weights have no place in {base.name} (first {sorted(left)[0]})")
    check_finite(tensors)
    tensors = with_marks(tensors, base)
    assumed = assumed_by_comfyui(tensors, family)
    if assumed != (base.prediction, base.zero_snr):
        log.warning(
            "ComfyUI's loaders will take %s for a model with %s: put ModelSamplingDiscrete behind them "
            "(sampling %s, zsnr %s)",
            path.name,
            f"{assumed[0]}, zsnr {assumed[1]}".lower(),
            "eps" if base.prediction == "epsilon" else base.prediction,
            str(base.zero_snr).lower(),
        )
    header = {"modelspec.sai_model_spec": "1.0.1", **(metadata or {})}
    header["modelspec.prediction_type"] = PREDICTION_TYPES[base.prediction]

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            same(written, tensors)

    return write_checked(path, tensors, header, check)


def trained_base(base: BaseModelRef, path: Path) -> BaseModelRef:
    """The base in a file that `write_checkpoint` made of `base`: it computes as `base` does.

    What a file does not carry (configs, a tokenizer) still comes from the base's folder, where it has one.
    """
    location = base.location
    if not isinstance(location, Loaded):
        location = Loaded(dict, components=location if location.is_dir() else None)
    if location.components is None and not any(location.elsewhere.values()):
        made = base_from_path(path, base.dtype, base.clip_skip)
    else:
        loaded = replace(location, state_dict=lambda: _read(path), label=path.stem, patched=0)
        made = base_from_loaded(loaded, file_hash(path), base.dtype, base.clip_skip)
    return replace(made, prediction=base.prediction, zero_snr=base.zero_snr)


def _read(path: Path) -> dict[str, Tensor]:
    with open_tensors(path) as (tensors, _):
        return {key: tensors[key] for key in tensors}
