"""A base model with a trained denoiser, as one file in original names, which ComfyUI and others load."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import FewShotError
from ..core.files import check_finite, same, write_checked
from ..core.values import BaseModelRef, Loaded
from ..core.weight_files import file_hash, open_tensors
from .open import base_from_loaded, base_from_path, source_of
from .stable_diffusion.identify import looks_like_velocity
from .stable_diffusion.load import ModelFolder, OriginalCheckpoint, Source
from .stable_diffusion.names import UNET, unet_name
from .stable_diffusion.names_back import original_text, original_unet_names, original_vae
from .stable_diffusion.variants import Family, family_named

log = logging.getLogger(__name__)

# Names of empty tensors that tell loaders the prediction type, and that the last step is pure noise.
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
# ModelSpec's metadata values for the prediction type.
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}
# An original name, its tensor, and the UNet's parameter it holds, if any.
NamedTensor = tuple[str, Tensor, str | None]


def write_checkpoint(
    base: BaseModelRef, changes: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write `base` with `changes` added to its denoiser: float16, read back and checked before it gets its name.

    `changes` are by the UNet's parameters in diffusers' names; everything else is copied. The prediction type goes into
    the marker tensors and the metadata that loaders read; the log says where ComfyUI reads none. An existing file is
    never overwritten.

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
    tensors = _marked(tensors, base)
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


def _marked(tensors: Mapping[str, Tensor], base: BaseModelRef) -> dict[str, Tensor]:
    """The tensors with the marks of what `base` predicts, and no others."""
    velocity = base.prediction == "v_prediction"
    marks = {VELOCITY: velocity, ZERO_SNR: velocity and base.zero_snr}
    kept = {name: tensor for name, tensor in tensors.items() if name not in marks}
    return kept | {name: torch.empty(0, dtype=torch.float16) for name, wanted in marks.items() if wanted}


def assumed_by_comfyui(tensors: Mapping[str, Tensor], family: Family) -> tuple[str, bool]:
    """What ComfyUI takes a checkpoint to predict, and whether with zero terminal SNR (comfy/supported_models.py).

    It looks for marks in SDXL only, tells SD 2.x by its weights, and knows SD 1.x that predicts noise only.
    """
    if family.name == "sdxl":
        velocity = VELOCITY in tensors
        return "v_prediction" if velocity else "epsilon", velocity and ZERO_SNR in tensors
    return "v_prediction" if family.name == "sd2" and looks_like_velocity(tensors) else "epsilon", False


def _named(source: Source, family: Family) -> Iterator[NamedTensor]:
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
