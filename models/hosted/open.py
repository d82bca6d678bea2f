"""Opening what ComfyUI has loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from ...core.errors import FewShotError
from ...core.values import BaseModelRef
from .families import family_of
from .host import comfy
from .in_place import as_loaded, plain_weights
from .model import HostedModel
from .parts import HostedParts


@contextmanager
def opened(ref: BaseModelRef, device: torch.device) -> Iterator[HostedModel]:
    """The networks on ComfyUI's device, patched as the graph patched them, and frozen; as they were when it ends.

    On the meta device nothing is moved: only shapes can be asked for.

    Raises:
        FewShotError: the network draws no pictures, or cannot be trained on.
    """
    parts: HostedParts = ref.location
    family = family_of(parts.model.model.model_config)
    if device.type == "meta":
        yield HostedModel(ref, parts, family, torch.device("cpu")).without_weights(torch.float32)
        return
    patcher = static(parts.model)
    if device.type != torch.device(patcher.load_device).type:
        raise FewShotError(
            f"ComfyUI computes on {patcher.load_device} and training was asked to on {device}: both use one device"
        )
    with as_loaded(patcher.model):
        comfy().model_management.load_models_gpu([patcher], force_full_load=True)
    with torch.inference_mode(False), plain_weights(patcher.model):
        model = HostedModel(ref, replace(parts, model=patcher), family, torch.device(patcher.load_device))
        try:
            yield model
        finally:
            model.close()
            gc.collect()


def static(model: Any) -> Any:
    """A clone whose weights lie where layers compute: of a MODEL that ComfyUI streams, one that is loaded anew.

    Raises:
        FewShotError: what loaded it left no way to load it again.
    """
    if not model.is_dynamic():
        return model.clone()
    try:
        return model.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise FewShotError(
            f"ComfyUI streams the weights of this {type(model.model).__name__}, and the node that loaded it cannot "
            "load it again for training: use one of ComfyUI's own loaders, or start ComfyUI with --disable-dynamic-vram"
        ) from error
