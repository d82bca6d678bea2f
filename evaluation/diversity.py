"""How different pictures of one prompt are, and how far the class itself has drifted (DreamBooth, section 4.3)."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from PIL import Image

from ..models.errors import FewShotError
from .likeness import Eyes, check_references

SIDE = 256  # pixels at which LPIPS compares

Distance = Callable[[Sequence[Image.Image]], torch.Tensor]
"""The distances (n, n) of n pictures of one prompt."""


def diversity(images: Sequence[Image.Image], groups: Sequence[object], distance: Distance) -> float:
    """DIV: the mean distance of two pictures of the same group (a prompt), over all such pairs. Higher is more varied.

    Raises:
        FewShotError: no group has two pictures.
    """
    if len(images) != len(groups):
        raise FewShotError(f"{len(images)} pictures cannot lie in {len(groups)} groups; name the group of each")
    found: list[float] = []
    for name in dict.fromkeys(groups):
        own = [image for image, group in zip(images, groups, strict=True) if group == name]
        if len(own) > 1:
            table = distance(own)
            found += [float(table[i, j]) for i, j in combinations(range(len(own)), 2)]
    if not found:
        raise FewShotError("diversity compares pictures of one prompt; draw at least two of each (raise the count)")
    return sum(found) / len(found)


def apart(eyes: Eyes) -> Distance:
    """1 - cosine of the embeddings: what stands in where LPIPS is not installed."""

    def table(images: Sequence[Image.Image]) -> torch.Tensor:
        seen = eyes.images(images)
        return 1 - seen @ seen.T

    return table


def has_lpips() -> bool:
    """Whether the package `lpips` is installed."""
    return importlib.util.find_spec("lpips") is not None


def perceptual(model: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Distance:
    """LPIPS (Zhang et al. 2018) by a model of the package, such as `lpips.LPIPS(net="alex")`."""

    @torch.no_grad()
    def table(images: Sequence[Image.Image]) -> torch.Tensor:
        sized = [np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in images]
        tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for a in sized]
        found = torch.zeros(len(images), len(images))
        for i, j in combinations(range(len(images)), 2):
            found[i, j] = found[j, i] = float(model(tensors[i], tensors[j]))
        return found

    return table


def preservation(drawn: Sequence[Image.Image], references: Sequence[Image.Image], eyes: Eyes) -> float:
    """PRES: the mean cosine of pictures of the class alone ("a photo of a cat") and the subject's references.

    It should stay at the untrained base's level: where it rises, the class has drifted towards the subject.
    """
    check_references("language drift", references)
    if not drawn:
        raise FewShotError("language drift needs pictures of the class alone; draw at least one")
    return float((eyes.images(drawn) @ eyes.images(references).T).mean())
