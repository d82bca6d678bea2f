"""Opening what ComfyUI has loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...core.errors import FewShotError
from ...core.values import BaseModelRef
from .families import family_of
from .host import comfy
from .in_place import plain_weights
from .model import HostedModel
from .parts import HostedParts


@contextmanager
def opened(ref: BaseModelRef, parts: HostedParts, device: torch.device) -> Iterator[HostedModel]:
    """The networks on ComfyUI's device, patched as the graph patched them, and frozen; as they were when it ends.

    Raises:
        FewShotError: the network draws no pictures, or cannot be trained on.
    """
    management = comfy().model_management
    patcher = parts.model.clone()
    family = family_of(patcher.model.model_config)
    if torch.device(device).type != torch.device(patcher.load_device).type:
        raise FewShotError(
            f"ComfyUI computes on {patcher.load_device} and training was asked to on {device}: both use one device"
        )
    with torch.inference_mode():  # as when ComfyUI runs a node
        management.load_models_gpu([patcher], force_full_load=True)
    with torch.inference_mode(False), plain_weights(patcher.model):
        model = HostedModel(ref, parts, family, torch.device(patcher.load_device))
        try:
            yield model
        finally:
            model.close()
            gc.collect()
