"""ComfyUI's modules for the rest of this package: in a graph they are there, outside of one `start` brings them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError


def is_started() -> bool:
    return "comfy.model_management" in sys.modules


def start(folder: Path, cpu: bool) -> None:
    """Make the ComfyUI in `folder` importable, first on the path; it parses no arguments. Nothing if it is there."""
    if is_started():
        return
    if not (folder / "comfy" / "model_management.py").is_file():
        raise FewShotError(f"there is no ComfyUI in {folder}: give the folder that holds its main.py")
    sys.path.insert(0, str(folder))
    import comfy.options  # pyright: ignore[reportMissingImports]

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    args.cpu = cpu


def comfy() -> Any:
    """The package, with what is used of it."""
    import comfy.lora  # pyright: ignore[reportMissingImports]
    import comfy.model_management  # pyright: ignore[reportMissingImports]
    import comfy.model_sampling  # pyright: ignore[reportMissingImports]
    import comfy.patcher_extension  # pyright: ignore[reportMissingImports]
    import comfy.sd  # pyright: ignore[reportMissingImports]
    import comfy.supported_models  # pyright: ignore[reportMissingImports]
    import comfy.utils  # pyright: ignore[reportMissingImports]

    return comfy
