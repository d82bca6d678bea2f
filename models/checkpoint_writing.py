"""A base model with a trained denoiser, as one file in original names, which ComfyUI and others load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from .assembly import ModelFolder, OriginalCheckpoint, Source
from .checkpoint_files import file_hash, open_tensors
from .checkpoint_names import UNET, unet_name
from .checkpoint_original import original_text, original_unet_names, original_vae
from .errors import FewShotError
from .families import Family, family_named
from .loading import base_from_loaded, base_from_path, source_of
from .values import BaseModelRef, Loaded
from .whole_files import check_finite, same, write_checked

Named = tuple[str, Tensor, str | None]
"""an original name, its tensor, and the UNet's parameter that it is"""


def write_checkpoint(
    base: BaseModelRef, changes: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write `base` with `changes` added to its denoiser: float16, read back and checked before it gets its name.

    `changes` go by the UNet's parameters in diffusers' names. Everything else is copied. A name once used is never
    written over.

    Raises:
        FewShotError: a change has no place in the base, the result is not finite in float16, or the disk refuses.
    """
    family = family_named(base.family)
    left = set(changes)
    tensors: dict[str, Tensor] = {}
    with torch.no_grad(), source_of(base, family) as source:
        for name, tensor, parameter in _named(source, family):
            if parameter in left:
                left.discard(parameter)
                tensor = tensor.float() + changes[parameter].to("cpu", torch.float32).reshape(tensor.shape)
            kept = tensor.to("cpu", torch.float16) if tensor.is_floating_point() else tensor.cpu()
            tensors[name] = kept.clone().contiguous()
    if left:
        raise FewShotError(f"{len(left)} trained weights have no place in {base.name} (first {sorted(left)[0]})")
    check_finite(tensors)

    def check(draft: Path) -> None:
        with open_tensors(draft) as (written, _):
            same(written, tensors)

    return write_checked(path, tensors, {"modelspec.sai_model_spec": "1.0.1", **(metadata or {})}, check)


def _named(source: Source, family: Family) -> Iterator[Named]:
    """All tensors of a base by their original names. Averages that were kept for training on are left out."""
    if isinstance(source, OriginalCheckpoint):
        layers = source.unet()[0]["layers_per_block"]
        for key in source.tensors:
            if not key.startswith("model_ema."):
                inner = unet_name(key[len(UNET) :], layers) if key.startswith(UNET) else None
                yield key, source.tensors[key], inner
        return
    assert isinstance(source, ModelFolder)
    config, tensors = source.unet()
    for parameter, name in original_unet_names(tensors, config["layers_per_block"]).items():
        yield name, tensors[parameter], parameter
    config, tensors = source.vae()
    parts = [original_vae(tensors, len(config["block_out_channels"]))]
    parts += [original_text(source.text(which)[1], which, family.unused_layers) for which in family.text_encoders]
    yield from ((name, tensor, None) for part in parts for name, tensor in part.items())


def trained_base(base: BaseModelRef, path: Path) -> BaseModelRef:
    """The base in a file that `write_checkpoint` made of `base`: it computes as `base` does.

    What a file does not carry (configs, a tokenizer) still comes from the base's folder, where it has one.
    """
    location = base.location
    folder = location.components if isinstance(location, Loaded) else location if location.is_dir() else None
    if folder is None:
        made = base_from_path(path, base.dtype, base.clip_skip)
    else:
        loaded = Loaded(lambda: _read(path), path.stem, folder)
        made = base_from_loaded(loaded, file_hash(path), base.dtype, base.clip_skip)
    return replace(made, prediction=base.prediction, zero_snr=base.zero_snr)


def _read(path: Path) -> dict[str, Tensor]:
    with open_tensors(path) as (tensors, _):
        return {key: tensors[key] for key in tensors}
