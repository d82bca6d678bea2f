"""How reports identify a model: its name, its size, and the first digits of its weights' sha256.

Folders can have any name, and config.json of a fine-tune may name its parent; the weights are unambiguous.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.weight_files import file_hash

DIGITS = 8  # of the sha256, in hexadecimal
# In the order in which transformers searches for them.
WEIGHTS = (
    "model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin", "*.safetensors",
    "*.bin", "*.pth", "*.pt",
)  # fmt: skip
# Folder names that mean nothing without their parent's.
GENERIC = ("clip", "clipseg", "dino", "model", "vision", "image_encoder")
# In a converted model's folder: the published file's name, sha256, size and time.
MADE_FROM = "made_from.json"
# Letters of vision transformers by (width, layers).
SIZES = {
    (192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H", (1408, 40): "g",
    (1536, 40): "g", (1664, 48): "bigG",
}  # fmt: skip
VISION_TYPES = ("clip", "clip_vision_model", "vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


def model_id(location: Path, size: str | None = None) -> str:
    """ "dino-vits16 ViT-S/16 3f2a9c1d": of a folder of transformers, or of a file, whose `size` is given.

    A converted model has the published file's name and digits.
    """
    if location.is_file():
        name, digits = location.stem, file_hash(location)
    else:
        name = f"{location.parent.name}/{location.name}" if location.name.lower() in GENERIC else location.name
        made = made_from(location)
        name += f" ({Path(made['file']).stem})" if made else ""
        digits = made["sha256"] if made else weights_hash(location)
    return " ".join(part for part in (name, size_in(location) if size is None else size, digits[:DIGITS]) if part)


def made_from(folder: Path) -> dict[str, Any]:
    """The published file that a folder's model was converted from; empty where it was not converted here."""
    try:
        record = json.loads((folder / MADE_FROM).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    valid = isinstance(record, dict) and all(isinstance(record.get(name), str) for name in ("file", "sha256", "stamp"))
    return record if valid else {}


def origin_of(file: Path) -> dict[str, str]:
    """The record of a published file that is stored with its conversion."""
    return {"file": file.name, "sha256": file_hash(file), "stamp": stamp(file)}


def stamp(file: Path) -> str:
    """Changes when a file is written anew."""
    state = file.stat()
    return f"{state.st_size}:{state.st_mtime_ns}"


def weights_hash(folder: Path) -> str:
    """sha256 of a folder's weights, for several files that of their hashes; "" where there are none."""
    files = next((matches for pattern in WEIGHTS if (matches := sorted(folder.glob(pattern)))), [])
    hashes = [file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def size_in(folder: Path) -> str:
    """ "ViT-S/16" for vision models, "qwen2_vl 1536x28" (width x layers) for language models; "" where unknown."""
    config = folder / "config.json"
    return _size_in(folder, stamp(config)) if config.is_file() else ""


@lru_cache(maxsize=64)
def _size_in(folder: Path, written: str) -> str:
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception:  # transformers and its checks raise many kinds; whoever opens the model says what is wrong
        return ""
    if config.model_type in VISION_TYPES:
        vision = getattr(config, "vision_config", config)
        return vit_size(vision.hidden_size, vision.num_hidden_layers, vision.patch_size)
    text = config.get_text_config()
    width, layers = getattr(text, "hidden_size", None), getattr(text, "num_hidden_layers", None)
    return f"{config.model_type} {width}x{layers}" if width and layers else config.model_type


def vit_size(width: int, layers: int, patch: int) -> str:
    """ "ViT-B/32"; for sizes without a letter width x layers instead."""
    return f"ViT-{SIZES.get((width, layers), f'{width}x{layers}')}/{patch}"
