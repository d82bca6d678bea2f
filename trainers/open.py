"""Open a base for training: encoders move to the device only after the denoiser has its final precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..core.progress import Progress
from ..core.values import BaseModelRef
from ..models.contract import DiffusionModel
from ..models.open import open_base
from ..models.quantization import quantize_to_float8
from .settings.common import MemorySettings


@contextmanager
def opened(
    base: BaseModelRef,
    device: torch.device | str,
    progress: Progress,
    tokenizer_folder: Path | None = None,
    embedding_folders: tuple[Path, ...] = (),
) -> Iterator[DiffusionModel]:
    """The networks of `base`: the denoiser on `device`, the encoders on the host until `move_to_device`."""
    with open_base(base, device, progress, tokenizer_folder, host=True, embedding_folders=embedding_folders) as model:
        yield model


def move_to_device(model: DiffusionModel, chosen: MemorySettings) -> None:
    """Convert the denoiser to float8 where that is chosen, and move all networks to their device."""
    if chosen.weights == "float8":
        quantize_to_float8(model.denoiser)
    for part in (model.autoencoder, *model.text_encoders):
        part.to(model.device)
