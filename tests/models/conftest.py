"""Fixtures of the models' tests: a pocket folder with random weights, opened networks, seeded adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from comfyui_fewshot.core.values import Adapter
from comfyui_fewshot.models.adapters.inject import LoraSpec, inject
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion
from comfyui_fewshot.pocket.assemble import random_folder


@pytest.fixture(scope="session")
def pocket_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_folder(tmp_path_factory.mktemp("pocket") / "base")


@pytest.fixture(scope="session")
def small_tokenizer(pocket_folder: Path) -> Path:
    """A tokenizer folder for small checkpoints, which bring none."""
    return pocket_folder / "tokenizer"


@pytest.fixture(scope="session")
def opened_pocket(pocket_folder: Path) -> Iterator[StableDiffusion]:
    """Shared by the session: a test that changes it puts it back."""
    with open_base(base_from_path(pocket_folder), "cpu") as model:
        yield model


def random_adapter(model: StableDiffusion, sets: dict[str, LoraSpec], seed: int = 0, scale: float = 0.1) -> Adapter:
    """An adapter with effect: every parameter drawn at random."""
    injected = inject(model, sets, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in injected.parameters.values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    adapter = injected.extract("sks cat")
    injected.remove()
    return adapter
