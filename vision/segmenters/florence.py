"""Florence-2 (Xiao et al. 2023): referring segmentation, a phrase in and polygons out, through transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..open import TransformersModel
from .clipseg import box_of
from .interface import Instance

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
MAX_NEW_TOKENS = 1024


class FlorenceSegmenter(TransformersModel):
    """One instance a phrase. The model gives no score: 1 where it drew something, 0 where it drew nothing."""

    threshold = 0.5
    processor_class, model_class = "Florence2Processor", "Florence2ForConditionalGeneration"

    @torch.no_grad()
    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        instances = []
        for phrase in phrases:
            inputs = self.processor(images=picture, text=TASK + phrase, return_tensors="pt").to(self.device)
            tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, num_beams=3, do_sample=False)
            text = self.processor.batch_decode(tokens, skip_special_tokens=False)[0]
            answer = self.processor.post_process_generation(text, task=TASK, image_size=picture.size)
            mask = filled_polygons(answer[TASK]["polygons"], picture.size)
            instances.append(Instance(box_of(mask), float(mask.any()), phrase, mask))
        return instances


def filled_polygons(instances: Sequence[Sequence[Sequence[float]]], size: tuple[int, int]) -> np.ndarray:
    """Polygons [x, y, x, y, ...] in pixels of a picture of `size` (w, h), filled: (H, W) bool."""
    canvas = Image.new("1", size)
    draw = ImageDraw.Draw(canvas)
    for polygons in instances:
        for flat in polygons:
            values = [float(v) for v in flat]
            points = list(zip(values[::2], values[1::2], strict=False))
            if len(points) >= 3:
                draw.polygon(points, fill=1)
    return np.array(canvas, bool)
