"""MODEL, CLIP and VAE of a graph as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HostedParts:
    """What ComfyUI's loaders give: its ModelPatcher, CLIP and VAE. `label` is what people call the model."""

    model: Any
    clip: Any
    vae: Any
    label: str = "from the graph"
