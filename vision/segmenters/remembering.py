"""Finders and maskers whose answers are kept on disk by picture, phrases and threshold."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...core.images import pixel_key
from ..answer_cache import Answers
from .interface import Box, Finder, Instance, Masker


class RememberingFinder:
    """A `Finder`. `threshold` is that of the model, known before it is opened (`finder_class`)."""

    def __init__(self, answers: Answers[Finder], threshold: float):
        self.answers, self.threshold = answers, threshold

    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        asked = pixel_key(picture), list(phrases), threshold

        def by(model: Finder) -> Any:
            return [_told(one) for one in model.find(picture, phrases, threshold)]

        told = self.answers.to("find", *asked, by=by)
        return [Instance(tuple(one["box"]), one["score"], one["phrase"], _mask(one["mask"])) for one in told]


class RememberingMasker:
    """A `Masker`."""

    def __init__(self, answers: Answers[Masker]):
        self.answers = answers

    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        def by(model: Masker) -> Any:
            return [[_bits(mask), float(score)] for mask, score in model.masks(picture, boxes)]

        told = self.answers.to("masks", pixel_key(picture), [list(map(float, box)) for box in boxes], by=by)
        return [(np.asarray(_mask(mask)), score) for mask, score in told]


def _told(one: Instance) -> dict[str, Any]:
    box = [float(value) for value in one.box]
    mask = None if one.mask is None else _bits(one.mask)
    return {"box": box, "score": float(one.score), "phrase": one.phrase, "mask": mask}


def _bits(mask: np.ndarray) -> dict[str, Any]:
    packed = zlib.compress(np.packbits(mask.astype(bool)).tobytes())
    return {"shape": list(mask.shape), "bits": base64.b64encode(packed).decode()}


def _mask(told: dict[str, Any] | None) -> np.ndarray | None:
    if told is None:
        return None
    high, wide = told["shape"]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(told["bits"])), np.uint8)
    return np.unpackbits(bits, count=high * wide).reshape(high, wide).astype(bool)
