"""What reports call a model: its name, its size, and the first digits of its weights' sha256.

A folder's name is what someone gave it, and config.json of a fine-tune may name its parent; the weights do not lie.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..core.weight_files import file_hash

DIGITS = 8  # of the sha256, in hexadecimal
WEIGHTS = (
    "model.safetensors", "model-*-of-*.safetensors", "pytorch_model.bin", "pytorch_model-*-of-*.bin", "*.safetensors",
    "*.bin", "*.pth", "*.pt",
)  # fmt: skip
"""in the order in which transformers looks for them"""
GENERIC = ("clip", "clipseg", "dino", "model", "vision", "image_encoder")
"""names of folders that tell nothing without the folder they lie in"""
MADE_FROM = "made_from.json"
"""in a folder of transformers that was made from a published file: that file's name, sha256, size and time"""
SIZES = {
    (192, 12): "Ti", (384, 12): "S", (768, 12): "B", (1024, 24): "L", (1280, 32): "H", (1408, 40): "g",
    (1536, 40): "g", (1664, 48): "bigG",
}  # fmt: skip
"""of vision transformers, by width and layers"""
SEEING = ("clip", "clip_vision_model", "vit", "dinov2", "dinov2_with_registers", "dinov3_vit")


def model_id(place: Path, size: str | None = None) -> str:
    """ "dino-vits16 ViT-S/16 3f2a9c1d": of a folder of transformers, or of a file, whose `size` is given.

    A model that was made from a published file is called by both, and has that file's digits.
    """
    if place.is_file():
        name, digits = place.stem, file_hash(place)
    else:
        name = f"{place.parent.name}/{place.name}" if place.name.lower() in GENERIC else place.name
        made = made_from(place)
        name += f" ({Path(made['file']).stem})" if made else ""
        digits = made["sha256"] if made else weights_hash(place)
    return " ".join(part for part in (name, size_in(place) if size is None else size, digits[:DIGITS]) if part)


def made_from(folder: Path) -> dict[str, Any]:
    """What a folder's model was made from; empty where it was not made here."""
    try:
        found = json.loads((folder / MADE_FROM).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in ("file", "sha256", "stamp"))
    return found if whole else {}


def origin_of(file: Path) -> dict[str, str]:
    """What is kept of a published file beside what is made from it."""
    return {"file": file.name, "sha256": file_hash(file), "stamp": stamp(file)}


def stamp(file: Path) -> str:
    """Changes when a file is written anew."""
    state = file.stat()
    return f"{state.st_size}:{state.st_mtime_ns}"


def weights_hash(folder: Path) -> str:
    """sha256 of a folder's weights, of several files that of their hashes; "" where there are none."""
    files = next((found for pattern in WEIGHTS if (found := sorted(folder.glob(pattern)))), [])
    hashes = [file_hash(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest() if hashes else ""


def size_in(folder: Path) -> str:
    """ "ViT-S/16" of what sees, "qwen2_vl 1536x28" (width x layers) of what speaks; "" where nothing is told."""
    config = folder / "config.json"
    return _size_in(folder, stamp(config)) if config.is_file() else ""


@lru_cache(maxsize=64)
def _size_in(folder: Path, written: str) -> str:
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception:  # transformers and its checks raise many kinds; whoever opens the model says what is wrong
        return ""
    if config.model_type in SEEING:
        seen = getattr(config, "vision_config", config)
        return vit_size(seen.hidden_size, seen.num_hidden_layers, seen.patch_size)
    text = config.get_text_config()
    width, layers = getattr(text, "hidden_size", None), getattr(text, "num_hidden_layers", None)
    return f"{config.model_type} {width}x{layers}" if width and layers else config.model_type


def vit_size(width: int, layers: int, patch: int) -> str:
    """ "ViT-B/32"; of sizes without a letter width x layers instead."""
    return f"ViT-{SIZES.get((width, layers), f'{width}x{layers}')}/{patch}"
