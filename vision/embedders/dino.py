"""Image embeddings by a DINO (Caron et al. 2021, Oquab et al. 2024), from any local folder of transformers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModel

from ...core.errors import FewShotError
from ..find import vision_kind
from ..model_ids import model_id
from .clip import BATCH, pixels, preprocess_batch

log = logging.getLogger(__name__)
KINDS = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
EDGE, SIDE = 256, 224  # of DINO's own evaluation


class Dino:
    """A self-supervised vision transformer opened from `folder` on first use, in fp32; images only.

    Pictures are prepared as the folder's preprocessor_config.json says. A DINO of 2021 (a ViT) whose file names no crop
    gets DINO's own evaluation: the shorter edge to 256, a crop of 224, ImageNet's mean and deviation.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        self.folder, self.device = Path(folder), torch.device(device)
        self.kind = vision_kind(self._settings("config.json"), self.folder.name) or ""
        if self.kind not in KINDS:
            raise FewShotError(
                f"{self.folder} holds a {self.kind or 'model of unknown kind'}, not a DINO; choose a folder of "
                "transformers, such as facebook/dinov2-small or facebook/dino-vits16"
            )
        config = self._settings("preprocessor_config.json")
        if self.kind == "vit" and not (config.get("crop_size") and config.get("do_center_crop", True)):
            config = {}  # DINO's folders carry the file of another ViT, which neither crops nor normalises as DINO does
        self.mean = torch.tensor(config.get("image_mean", MEAN)).view(3, 1, 1)
        self.std = torch.tensor(config.get("image_std", STD)).view(3, 1, 1)
        self.side = _edge(config.get("crop_size") if config.get("do_center_crop", True) else None, SIDE)
        self.edge = max(_edge(config.get("size"), EDGE), self.side)

    @property
    def model_id(self) -> str:
        return model_id(self.folder)

    def _settings(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise FewShotError(f"{path} is damaged ({error}); fetch it again") from None

    @cached_property
    def model(self) -> Any:
        log.info("opening the DINO in %s", self.folder)
        try:
            opened: Any = AutoModel.from_pretrained(self.folder, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise FewShotError(f"the DINO in {self.folder} cannot be read ({error}); fetch its files again") from error
        model, info = opened
        missing = sorted(name for name in info["missing_keys"] if "pooler" not in name)  # which is not used here
        if missing:
            raise FewShotError(f"the DINO in {self.folder} lacks weights ({missing[0]}, ...); fetch its files again")
        return model.float().to(self.device).eval().requires_grad_(False)

    def move(self, device: torch.device | str) -> None:
        """Move the model to another device."""
        self.device = torch.device(device)
        self.model.to(self.device)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit embeddings (n, D) of pixels (n, 3, H, W) in [0, 1] on the DINO's device, differentiable."""
        output = self.model(pixel_values=preprocess_batch(pixels, self.edge, self.side, self.mean, self.std))
        return torch.nn.functional.normalize(output.last_hidden_state[:, 0], dim=-1)

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Unit embeddings (n, D) on the CPU: the class token after the last norm."""
        parts = []
        for start in range(0, len(images), BATCH):
            batch = [pixels(i, self.edge, self.side, self.mean, self.std) for i in images[start : start + BATCH]]
            output = self.model(pixel_values=torch.stack(batch).to(self.device))
            parts.append(output.last_hidden_state[:, 0])
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1).cpu()


def _edge(size: Any, otherwise: int) -> int:
    """A side in pixels from a preprocessor's config, which writes it in three ways."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    return int(size) if size else otherwise
