"""Opening a base to train on it: the encoders come to the device after the denoiser has the precision it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..core.progress import Watcher
from ..core.settings import SubjectSettings
from ..core.values import BaseModelRef
from ..models.contract import DiffusionModel
from ..models.open import open_base
from ..models.quantization import keep_in_float8


@contextmanager
def opened(
    base: BaseModelRef, device: torch.device | str, watcher: Watcher, tokenizer_folder: Path | None = None
) -> Iterator[DiffusionModel]:
    """The networks of `base`: the denoiser on `device`, text encoders and autoencoder on the host until `complete`."""
    with open_base(base, device, watcher, tokenizer_folder, host=True) as networks:
        yield networks


def complete(networks: DiffusionModel, chosen: SubjectSettings) -> None:
    """The denoiser into 8 bits, where that is chosen; then all networks are on the device."""
    if chosen.weights == "float8":
        keep_in_float8(networks.denoiser)
    for part in (networks.autoencoder, *networks.text_encoders):
        part.to(networks.device)
