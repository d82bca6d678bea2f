"""Image embeddings by the vision tower of a CLIP alone: the single files in ComfyUI's models/clip_vision.

They hold a CLIPVisionModelWithProjection in transformers' names, or a tower in open_clip's, without a
config: the sizes follow from the shapes, heads and activation from the number of layers, as in ComfyUI's loader. There
is no text tower, so they measure image similarity only; prompt following needs a full CLIP.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from ...core.errors import FewShotError
from ...core.weight_files import open_tensors
from ..model_ids import model_id, vit_size
from ..preference.hpsv2 import from_open_clip
from .clip import MEAN, STD
from .dino import Dino
from .embedder import FrozenEmbedder

log = logging.getLogger(__name__)
HEADS = 16  # of ViT-L, ViT-H and ViT-bigG alike
MIN_LAYERS = 23  # below which ComfyUI's loader refuses a tower; ViT-L has 24, ViT-H 32, ViT-bigG 48
GELU_FROM = 31  # layers from which the activation is GELU: ViT-L has OpenAI's quick GELU
NEEDED = "a ViT-L, ViT-H or ViT-bigG of a CLIP with its projection, such as clip_vision_h.safetensors"
LAYER = re.compile(r"(?:vision_model\.encoder\.layers|visual\.transformer\.resblocks)\.(\d+)\.")
PATCHES = ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight")
POSITIONS = ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding")
INNER = ("vision_model.encoder.layers.0.mlp.fc1.weight", "visual.transformer.resblocks.0.mlp.c_fc.weight")
PROJECTIONS = ("visual_projection.weight", "visual.proj")  # open_clip's is inputs x outputs


class ClipVision(FrozenEmbedder):
    """The tower in a .safetensors file; its sizes are read from the header at once.

    Raises:
        FewShotError: the file is damaged, or something else than such a tower.
    """

    kind = "clip_vision"

    def __init__(self, file: Path, device: torch.device | str = "cpu"):
        super().__init__(device, MEAN, STD)
        self.file = Path(file)
        self.config: Any = config_of(tensor_shapes(self.file), self.file.name)

    @property
    def model_id(self) -> str:
        config = self.config
        return model_id(self.file, vit_size(config.hidden_size, config.num_hidden_layers, config.patch_size))

    @property
    def sizes(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    def _open(self) -> Any:
        log.info("opening the vision tower in %s", self.file)
        with open_tensors(self.file) as (tensors, _):
            weights = {name: tensors[name] for name in tensors if name.startswith(("vision_model.", "visual"))}
        model: Any = CLIPVisionModelWithProjection(self.config)
        given = from_open_clip(weights) if PATCHES[1] in weights else weights
        try:
            missing, _ = model.load_state_dict({**_own_names(model, given)}, strict=False)
        except RuntimeError as error:
            raise FewShotError(f"{self.file.name} is no whole vision tower ({error}); fetch it again") from error
        missing = [name for name in missing if not name.endswith("position_ids")]
        if missing:
            raise FewShotError(f"{self.file.name} lacks weights ({missing[0]}, ...); fetch it again")
        return model.float().to(self.device).eval().requires_grad_(False)

    def _features(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).image_embeds


def open_image_embedder(path: Path, device: torch.device | str) -> ClipVision | Dino:
    """The image embedder at `path`: the vision tower in a file, or the DINO in a folder."""
    return ClipVision(path, device) if path.is_file() else Dino(path, device)


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a .safetensors file, from its header."""
    with open_tensors(file):  # which says what is wrong with a broken one
        pass
    with safe_open(str(file), "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def config_of(shapes: Mapping[str, tuple[int, ...]], name: str) -> CLIPVisionConfig:
    """The tower's configuration, from its tensors' shapes.

    Raises:
        FewShotError: they are of something else, or of a tower whose heads and activation are not known.
    """
    layers = 1 + max((int(match[1]) for key in shapes if (match := LAYER.match(key))), default=-1)
    patch, positions, inner, projection = (
        next((shapes[key] for key in keys if key in shapes), None) for keys in (PATCHES, POSITIONS, INNER, PROJECTIONS)
    )
    if layers < MIN_LAYERS or not (patch and positions and inner and projection) or len(patch) != 4:
        raise FewShotError(f"{name} holds no vision tower that is known here; choose {NEEDED}")
    width, open_clip = patch[0], PROJECTIONS[0] not in shapes
    side = round((positions[0] - 1) ** 0.5)
    if side * side + 1 != positions[0] or width % HEADS:
        raise FewShotError(f"{name} holds the vision tower of another model than a CLIP; choose {NEEDED}")
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner[0],
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        image_size=side * patch[-1],
        patch_size=patch[-1],
        projection_dim=projection[1] if open_clip else projection[0],
        hidden_act="gelu" if layers >= GELU_FROM else "quick_gelu",
    )


def _own_names(model: CLIPVisionModelWithProjection, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that the installed transformers gives its model."""
    known = model.state_dict()
    renamed = {}
    for name, value in weights.items():
        short = name.removeprefix("vision_model.")
        renamed[short if name not in known and short in known else name] = value
    return renamed
