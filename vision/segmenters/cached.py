"""Finders and maskers that cache their answers on disk, keyed by picture, phrases and threshold."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ...core.images import pixel_key
from ..answer_cache import AnswerCache
from .interface import Box, Finder, Instance, Masker


class CachedFinder:
    """A cached `Finder`. `threshold` is the model's default, known before it is opened (`finder_class`)."""

    def __init__(self, answers: AnswerCache[Finder], threshold: float):
        self.answers, self.threshold = answers, threshold

    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        question = pixel_key(picture), list(phrases), threshold

        def by(model: Finder) -> Any:
            return [_instance_json(instance) for instance in model.find(picture, phrases, threshold)]

        answer = self.answers.get("find", *question, by=by)
        return [_instance_from_json(stored) for stored in answer]


class CachedMasker:
    """A cached `Masker`."""

    def __init__(self, answers: AnswerCache[Masker]):
        self.answers = answers

    def masks(self, picture: Image.Image, boxes: Sequence[Box]) -> list[tuple[np.ndarray, float]]:
        def by(model: Masker) -> Any:
            return [[_mask_json(mask), float(score)] for mask, score in model.masks(picture, boxes)]

        answer = self.answers.get("masks", pixel_key(picture), [list(map(float, box)) for box in boxes], by=by)
        return [(np.asarray(_mask_from_json(mask)), score) for mask, score in answer]


def _instance_json(instance: Instance) -> dict[str, Any]:
    box = [float(value) for value in instance.box]
    mask = None if instance.mask is None else _mask_json(instance.mask)
    return {"box": box, "score": float(instance.score), "phrase": instance.phrase, "mask": mask}


def _instance_from_json(stored: dict[str, Any]) -> Instance:
    return Instance(tuple(stored["box"]), stored["score"], stored["phrase"], _mask_from_json(stored["mask"]))


def _mask_json(mask: np.ndarray) -> dict[str, Any]:
    packed = zlib.compress(np.packbits(mask.astype(bool)).tobytes())
    return {"shape": list(mask.shape), "bits": base64.b64encode(packed).decode()}


def _mask_from_json(stored: dict[str, Any] | None) -> np.ndarray | None:
    if stored is None:
        return None
    height, width = stored["shape"]
    bits = np.frombuffer(zlib.decompress(base64.b64decode(stored["bits"])), np.uint8)
    return np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
