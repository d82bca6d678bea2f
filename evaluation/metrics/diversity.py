"""How different pictures of one prompt are (DreamBooth, section 4.3)."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.weight_files import open_tensors
from ...vision.embedders.interface import ImageEmbedder
from .metric import MetricModel

log = logging.getLogger(__name__)
SIDE = 256  # pixels at which LPIPS compares
ALEXNET = "alexnet-owt-7be5be79.pth"  # torchvision's file


class Distance(Protocol):
    """A distance of pictures."""

    @property
    def model(self) -> MetricModel | None:
        """What looks at them; None for one that stays on the CPU."""
        ...

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """(n, n) of n pictures."""
        ...


def diversity(
    images: Sequence[Image.Image], groups: Sequence[object], distance: Callable[[Sequence[Image.Image]], torch.Tensor]
) -> float:
    """DIV: the mean distance of two pictures of the same group (a prompt), over all such pairs. Higher is more varied.

    Raises:
        FewShotError: no group has two pictures.
    """
    if len(images) != len(groups):
        raise FewShotError(f"{len(images)} pictures cannot lie in {len(groups)} groups; name the group of each")
    members: dict[object, list[int]] = {}
    for number, name in enumerate(groups):
        members.setdefault(name, []).append(number)
    distances: list[float] = []
    for indices in members.values():
        if len(indices) > 1:
            pictures = [images[number] for number in indices]  # which may be read from the disk only now
            table = distance(pictures)
            distances += [float(table[i, j]) for i, j in combinations(range(len(pictures)), 2)]
    if not distances:
        raise FewShotError("diversity compares pictures of one prompt; draw at least two of each (raise the count)")
    return sum(distances) / len(distances)


@dataclass(frozen=True)
class CosineDistance:
    """1 - cosine of the embeddings: what stands in where LPIPS is not installed."""

    model: ImageEmbedder

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        embeddings = self.model.images(images)
        return 1 - embeddings @ embeddings.T


def lpips_weights(folders: Sequence[Path]) -> Path | None:
    """AlexNet's weights where `lpips` is installed and they lie in one of the folders or torch's own cache.

    The package itself would fetch them on its first use, which nothing here does unasked.
    """
    if importlib.util.find_spec("lpips") is None:
        return None
    searched = [*folders, Path(torch.hub.get_dir()) / "checkpoints"]
    return next((folder / ALEXNET for folder in searched if (folder / ALEXNET).is_file()), None)


class Lpips:
    """LPIPS (Zhang et al. 2018) with torchvision's AlexNet of `file`, opened on first use.

    Raises, when it is used, FewShotError where the file does not hold it.
    """

    model = None

    def __init__(self, file: Path):
        self.file = file

    @cached_property
    def network(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        log.info("opening LPIPS with %s", self.file)
        lpips = importlib.import_module("lpips").LPIPS(net="alex", pnet_rand=True, verbose=False)
        try:
            with open_tensors(self.file) as (weights, _):
                alexnet = {name: weights[f"features.{name.split('.', 1)[1]}"] for name in lpips.net.state_dict()}
            lpips.net.load_state_dict(alexnet)
        except (RuntimeError, KeyError, FewShotError) as error:
            raise FewShotError(f"{self.file} does not hold torchvision's AlexNet ({error}); fetch it again") from error
        return lpips.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        sized = [np.asarray(i.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in images]
        tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for a in sized]
        distances = torch.zeros(len(images), len(images))
        for i, j in combinations(range(len(images)), 2):
            distances[i, j] = distances[j, i] = float(self.network(tensors[i], tensors[j]))
        return distances
