"""How much memory models that see pictures take, from the headers of their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .embedders.clip import BATCH, settings_in
from .embedders.clip_vision import config_of, shapes_in

WORKING = 3, 4  # a token's numbers at once in a vision layer: of the inner width at its activation, of the outer beside
WIDTH, IMAGE, PATCH, INNER = 768, 224, 32, 4  # what transformers takes where a CLIP's config.json names none


def numbers_in(folder: Path) -> int:
    """How many numbers the weights in a folder of transformers are; of .bin files, as if they were kept in fp32.

    Of a single file those of its vision tower.
    """
    if folder.is_file():
        shapes = shapes_in(folder)
        return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(("vision_model.", "visual")))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return sum(path.stat().st_size for path in folder.glob("pytorch_model*.bin")) // 4
    total = 0
    for path in files:
        with safe_open(path, "pt") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total


def looking_bytes(folder: Path) -> float:
    """What the vision tower in a folder or file takes in fp32 to look at as many pictures as it sees together."""
    if folder.is_file():
        sizes: Any = config_of(shapes_in(folder), folder.name)
        return seen_bytes(sizes.hidden_size, sizes.intermediate_size, sizes.image_size, sizes.patch_size)
    said = settings_in(folder, "config.json", needed=True)
    config = said.get("vision_config", said)
    return seen_bytes(
        config.get("hidden_size", WIDTH), config.get("intermediate_size"), config.get("image_size", IMAGE),
        config.get("patch_size", PATCH),
    )  # fmt: skip


def seen_bytes(width: int, inner: int | None, image: int, patch: int) -> float:
    """The same from the sizes; an inner width that is not named is four times the outer."""
    tokens = (image // patch) ** 2 + 1
    return 4 * BATCH * tokens * (WORKING[0] * (inner or INNER * width) + WORKING[1] * width)
