"""What several test rooms share: where ComfyUI lies, and one real server for all tests that need one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from comfyui_fewshot.tests.server.harness import Server, prepare


@pytest.fixture(scope="module", autouse=True)
def _settings_put_back() -> Iterator[None]:
    """What a module leaves behind changes the tests after it: threads the rounding, a logger's level what is told."""
    before = process_settings()
    yield
    assert process_settings() == before, "a test of this module changed a setting of the process and left it"


def process_settings() -> dict[str, object]:
    loggers = logging.Logger.manager.loggerDict
    return {
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "folder": Path.cwd(),
        "path": os.environ.get("COMFYUI_PATH"),
        "levels": {
            n: log.level for n, log in loggers.items() if n.startswith("comfyui_fewshot") and getattr(log, "level", 0)
        },
    }


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The folder of a real ComfyUI, named by COMFYUI_PATH."""
    given = os.environ.get("COMFYUI_PATH")
    if not given or not (Path(given) / "main.py").is_file():
        pytest.fail(f"COMFYUI_PATH is {given!r}; set it to the folder of a ComfyUI 0.24 or newer (run.py test does)")
    return Path(given)


@pytest.fixture(scope="session")
def server(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One ComfyUI for the whole session: this pack, a pocket model with random weights, folders of its own."""
    base = tmp_path_factory.mktemp("comfyui")
    prepare(base)
    with Server(comfyui_path, base) as running:
        yield running
