"""Open a base for training: encoders move to the device only after the denoiser has its final precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..core.errors import FewShotError
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
        if not model.owns_weights:
            raise FewShotError(
                f"weights is float8, and {model.ref.name} stays as ComfyUI loaded it: choose full, and "
                "load it in 8 bits with the node that loads it"
            )
        quantize_to_float8(model.denoiser)
    for part in model.offloadable(reads_text=False):
        part.to(model.device)
