"""Masks and cut-outs for tests of composites."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from comfyui_fewshot.augmentation.composites.compose import CutOut
from comfyui_fewshot.core.values import Concept

DOG, CAR, RELATION = Concept("sks", "dog"), Concept("zwx", "car", "red"), Concept("<R>", "on", kind="relation")
MAX_SEED = 1 << 32


def blob(width=60, height=40, box=(10, 5, 50, 35), shape="ellipse"):
    mask = Image.new("L", (width, height))
    getattr(ImageDraw.Draw(mask), shape)((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
    return mask


def textured(size, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def cut(mask, colours=None, side=None):
    box = mask.getbbox()
    colours = (colours or textured(mask.size)).crop(box)
    shape = mask.crop(box)
    return CutOut(colours, shape, None, side or max(shape.size))
