"""Image embeddings by a DINO (Caron et al. 2021, Oquab et al. 2024), from any local folder of transformers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from ...core.errors import FewShotError
from ..find import vision_kind
from ..model_ids import model_id
from ..open import open_model
from .clip import read_model_json
from .embedder import FrozenEmbedder

log = logging.getLogger(__name__)
KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
EDGE, SIDE = 256, 224  # of DINO's own evaluation


class Dino(FrozenEmbedder):
    """A self-supervised vision transformer in `folder`; images only.

    Pictures are prepared as the folder's preprocessor_config.json says. A DINO of 2021 (a ViT) whose file names no crop
    gets DINO's own evaluation: the shorter edge to 256, a crop of 224, ImageNet's mean and deviation.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder = Path(folder)
        self.kind = vision_kind(read_model_json(self.folder, "config.json"), self.folder.name) or ""
        if self.kind not in KINDS:
            raise FewShotError(
                f"{self.folder} holds a {self.kind or 'model of unknown kind'}, not a DINO; choose a folder of "
                "transformers, such as facebook/dinov2-small or facebook/dino-vits16"
            )
        config = read_model_json(self.folder, "preprocessor_config.json")
        if self.kind == "vit" and not (config.get("crop_size") and config.get("do_center_crop", True)):
            config = {}  # DINO's folders carry the file of another ViT, which neither crops nor normalises as DINO does
        super().__init__(device, config.get("image_mean", MEAN), config.get("image_std", STD))
        side = _edge(config.get("crop_size") if config.get("do_center_crop", True) else None, SIDE)
        self._sizes = max(_edge(config.get("size"), EDGE), side), side

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    @property
    def sizes(self) -> tuple[int, int]:
        return self._sizes

    def _open(self) -> Any:
        log.info("opening the DINO in %s", self.folder)
        return open_model("AutoModel", self.folder, self.device, kind="DINO", unused="pooler")

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The class token after the last norm."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


def _edge(size: Any, otherwise: int) -> int:
    """A side in pixels from a preprocessor's config, which writes it in three ways."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if size else otherwise
