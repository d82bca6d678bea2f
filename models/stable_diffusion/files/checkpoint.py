"""A base as a checkpoint in original names: its tensors, and the marks by which loaders know what it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ....core.values import BaseModelRef
from ..variants import Family
from .identify import looks_like_velocity
from .load import ModelFolder, OriginalCheckpoint, Source
from .names import UNET, unet_name
from .names_back import original_text, original_unet_names, original_vae

# Names of empty tensors that tell loaders the prediction type, and that the last step is pure noise.
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"
# ModelSpec's metadata values for the prediction type.
PREDICTION_TYPES = {"epsilon": "epsilon", "v_prediction": "v"}
# An original name, its tensor, and the UNet's parameter it holds, if any.
NamedTensor = tuple[str, Tensor, str | None]


def with_marks(tensors: Mapping[str, Tensor], base: BaseModelRef) -> dict[str, Tensor]:
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


def named_tensors(source: Source, family: Family) -> Iterator[NamedTensor]:
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
