"""CLIPSeg (Lüddecke & Ecker 2022): a coarse heatmap of a phrase, through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from ...core.text.prompts import with_article
from ..open import open_model, open_processor
from .interface import Instance


class ClipSeg:
    """The heatmap of a phrase, upsampled to the picture; the mask is its region above the threshold."""

    threshold = 0.4

    def __init__(self, folder: Path, device: torch.device):
        self.device = device
        self.tokenizer = open_processor("AutoTokenizer", folder)
        self.images = open_processor("AutoImageProcessor", folder)
        self.model = open_model("CLIPSegForImageSegmentation", folder, device)
        vision = self.model.config.vision_config
        self.side = vision.image_size
        self.max_tokens = self.model.config.text_config.max_position_embeddings

    def heatmap(self, picture: Image.Image, phrase: str) -> torch.Tensor:
        """(H, W) in [0, 1] on the CPU.

        The picture is resized to the model's square without a crop, so that all of it is covered: the map's
        pixel (x, y) is the picture's (x W / S, y H / S).
        """
        square = picture.convert("RGB").resize((self.side, self.side), Image.Resampling.BICUBIC)
        pixels = self.images(images=square, do_resize=False, do_center_crop=False, return_tensors="pt").pixel_values
        tokens = self.tokenizer(
            [phrase], padding="max_length", max_length=self.max_tokens, truncation=True, return_tensors="pt"
        )
        logits = self.model(
            pixel_values=pixels.to(self.device),
            input_ids=tokens.input_ids.to(self.device),
            attention_mask=tokens.attention_mask.to(self.device),
        ).logits
        logits = logits.float().cpu().reshape(1, 1, *logits.shape[-2:])  # some versions drop a batch of one
        heatmap = torch.sigmoid(logits)
        size = picture.height, picture.width
        return functional.interpolate(heatmap, size, mode="bilinear", align_corners=False)[0, 0]

    @torch.no_grad()
    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        """One instance a phrase: the score is the map's highest value, the box that of the mask.

        A bare noun gets its article ("cat" becomes "a cat"): the model was trained on such phrases.
        """
        instances = []
        for phrase in phrases:
            heatmap = self.heatmap(picture, with_article(phrase)).numpy()
            mask = heatmap >= threshold
            instances.append(Instance(box_of(mask), float(heatmap.max()), phrase, mask))
        return instances


def box_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """The smallest box (left, top, right, bottom) around a mask (H, W); of an empty one the whole picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0.0, 0.0, float(mask.shape[1]), float(mask.shape[0])
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
