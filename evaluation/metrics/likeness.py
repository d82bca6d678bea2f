"""Likeness to the subject's references: DINO of full pictures, and any likeness of cut-outs of the subject."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.values import Prompt
from ...vision.embedders.dino import Dino
from ...vision.embedders.interface import ImageEmbedder
from .cut_out import SubjectSegmenter
from .metric import ModelMetric, check_pairs

log = logging.getLogger(__name__)
BACKGROUND = (127, 127, 127)
MARGIN = 0.08  # of the subject's longer side, around its cut-out
FEWEST_PIXELS = 16  # of a mask that counts as a detection

# Gives the mask of the subject in a picture (mode L, white on it), or None where it is not there
Segment = Callable[[Image.Image], "Image.Image | None"]


class ImageLikeness(ModelMetric):
    """The mean cosine of each picture and every reference."""

    name: str

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        """Cosines (n,) in [-1, 1]; see `Metric`. FewShotError without references."""
        check_pairs(images, prompts)
        check_references(self.name, references)
        return (self.model.images(images) @ self.model.images(references).T).mean(-1)

    def gradient(
        self, pixels: torch.Tensor, prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        """The same of pixels (n, 3, H, W) in [0, 1], differentiable."""
        return (self.model.encode(pixels) @ self.model.images(references).to(pixels.device).T).mean(-1)


class DinoImage(ImageLikeness):
    """DINO: the mean cosine of each picture's class token and every reference's (DreamBooth, Ruiz et al. 2023).

    It is called DINOv2 or DINOv3 where the folder holds one. It rewards copying a reference, pose and background
    included: read it together with CLIP-T and the masked likeness.
    """

    def __init__(self, dino: Path | Dino, device: torch.device | str = "cpu"):
        self.model = dino if isinstance(dino, Dino) else Dino(dino, device)
        self.name = dino_name(self.model.kind)


def dino_name(kind: str) -> str:
    """The metric's name for a model_type of transformers."""
    if kind.startswith("dinov2"):
        return "DINOv2"
    return "DINOv3" if kind.startswith("dinov3") else "DINO"


class MaskedLikeness:
    """Likeness of cut-outs of the subject on grey, in pictures and references: a copied background does not count.

    A picture without a detection has likeness 0; the log and the model's id say how many there are. `masks` are pairs
    of a reference and its own mask (mode L, white on the subject), which is used instead of `segment`.
    """

    def __init__(
        self,
        embedder: ImageEmbedder,
        segment: Segment,
        name: str,
        masks: Sequence[tuple[Image.Image, Image.Image]] = (),
    ):
        self.model, self.segment = embedder, segment
        self.masks = {_pixel_hash(image): mask for image, mask in masks}
        self.name = f"masked {name}"
        self._subject_found: dict[bytes, bool] = {}  # by each picture that was segmented

    @property
    def model_id(self) -> str:
        """The model, the segmenter, and how often that detected nothing so far: read it after scoring."""
        by = f" by {self.segment.name}" if isinstance(self.segment, SubjectSegmenter) else ""
        total, missing = len(self._subject_found), sum(not found for found in self._subject_found.values())
        misses = f"; nothing found in {missing} of {total} pictures" if total else ""
        return f"{self.model.model_id} on cut-outs{by}{misses}"

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        """Cosines (n,) in [-1, 1]; see `Metric`. FewShotError without a reference in which the subject is found."""
        check_pairs(images, prompts)
        check_references(self.name, references)
        references_cut = [cut for cut in map(self._cut, references) if cut is not None]
        if not references_cut:
            raise FewShotError(
                f"{self.name}: the subject is found in none of the {len(references)} references; give them masks, or "
                "choose another segmenter"
            )
        cuts = [self._cut(image) for image in images]
        found = [number for number, cut in enumerate(cuts) if cut is not None]
        scores = torch.zeros(len(images))
        if len(found) < len(images):
            log.warning("%s: no subject in %d of %d pictures", self.name, len(images) - len(found), len(images))
        if found:
            embeddings = self.model.images([cut for cut in cuts if cut is not None])
            scores[found] = (embeddings @ self.model.images(references_cut).T).mean(-1)
        return scores

    def _cut(self, image: Image.Image) -> Image.Image | None:
        key = _pixel_hash(image)
        known_mask = self.masks.get(key)
        mask = known_mask or self.segment(image)
        cropped = None if mask is None else cut_out(image, mask)
        if known_mask is None:
            self._subject_found[key] = cropped is not None
        return cropped


def _pixel_hash(image: Image.Image) -> bytes:
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).digest()


def cut_out(image: Image.Image, mask: Image.Image) -> Image.Image | None:
    """The subject on grey in a square with a small margin; None where the mask is as good as empty."""
    white = mask.convert("L").resize(image.size, Image.Resampling.NEAREST).point([0] * 128 + [255] * 128)
    box = white.getbbox()
    if box is None or white.histogram()[255] < FEWEST_PIXELS:
        return None
    ground = Image.new("RGB", image.size, BACKGROUND)
    ground.paste(image.convert("RGB"), (0, 0), white)
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * MARGIN))
    square = Image.new("RGB", (side, side), BACKGROUND)
    cut = ground.crop(box)
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def check_references(name: str, references: Sequence[Image.Image]) -> None:
    """Raises FewShotError unless there is something to compare with."""
    if not references:
        raise FewShotError(f"{name} compares with pictures of the subject and there are none; connect its pictures")
