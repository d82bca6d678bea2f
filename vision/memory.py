"""Memory of vision models, from the headers of their files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from .embedders.clip import read_model_json
from .embedders.clip_vision import config_of, tensor_shapes
from .embedders.embedder import BATCH

# Live activations of a token in a vision layer: multiples of the MLP width and of the hidden width.
LIVE_MLP, LIVE_HIDDEN = 3, 4
# Defaults of transformers where a CLIP's config.json names none.
WIDTH, IMAGE, PATCH, MLP_RATIO = 768, 224, 32, 4


def parameter_count(folder: Path) -> int:
    """The number of parameters in a model folder of transformers; of .bin files, assuming fp32.

    For a single file those of its vision tower.
    """
    if folder.is_file():
        shapes = tensor_shapes(folder)
        return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(("vision_model.", "visual")))
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        return sum(path.stat().st_size for path in folder.glob("pytorch_model*.bin")) // 4
    total = 0
    for path in files:
        total += sum(map(math.prod, tensor_shapes(path).values()))
    return total


def embedding_bytes(folder: Path) -> float:
    """Activation bytes of the vision tower in a folder or file, in fp32, for one batch of pictures."""
    if folder.is_file():
        sizes: Any = config_of(tensor_shapes(folder), folder.name)
        return vision_tower_bytes(sizes.hidden_size, sizes.intermediate_size, sizes.image_size, sizes.patch_size)
    config_file = read_model_json(folder, "config.json", needed=True)
    config = config_file.get("vision_config", config_file)
    return vision_tower_bytes(
        config.get("hidden_size", WIDTH), config.get("intermediate_size"), config.get("image_size", IMAGE),
        config.get("patch_size", PATCH),
    )  # fmt: skip


def vision_tower_bytes(width: int, inner: int | None, image: int, patch: int) -> float:
    """The same from the sizes; `inner` None is four times the hidden width."""
    tokens = (image // patch) ** 2 + 1
    return 4 * BATCH * tokens * (LIVE_MLP * (inner or MLP_RATIO * width) + LIVE_HIDDEN * width)
