"""What the tests of run.py's parts share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def fake_comfyui() -> Callable[..., Path]:
    """Makes a folder that looks like a ComfyUI, with a main.py that holds `code`."""

    def make(folder: Path, version: str = "0.30.0", code: str = "") -> Path:
        (folder / "comfy").mkdir(parents=True)
        (folder / "main.py").write_text(code)
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
        return folder

    return make
