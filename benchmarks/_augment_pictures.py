"""Rows of the bench `augment` on pictures: pasting and priors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from ..augmentation.compositing import Layer, arrange, compose, cut_out
from ..augmentation.pasting import PasteSettings, paste
from ..augmentation.pictures import stored_picture
from ..augmentation.priors import PriorSettings, make_priors
from ..models.loading import base_from_path
from ..models.values import Concept, Sample, TrainingSet
from ..pocket import assemble, drawing, world
from . import Row

SCENES = 611  # a stream of scenes of its own
PHOTOGRAPH = 512  # pixels
GRAIN = 8.0  # standard deviation of a camera's noise, of 255: without it drawn pictures are written too fast


def rows(quick: bool) -> list[Row]:
    """`paste.*` and `priors.*`."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return [iou_row(quick, folder), speed_row(quick, folder), second_run_row(quick, folder)]


def subjects(folder: Path, count: int, size: int = world.SIZE) -> TrainingSet:
    """Pictures of the pocket's scenes with the true mask of their first thing, of two subjects in turn."""
    samples = []
    for index in range(count):
        picture, masks = drawing.render(world.scene_of(SCENES, index))
        mask = Image.fromarray(np.asarray(masks[0])).convert("L")
        if size != world.SIZE:
            picture, mask = _photographed(picture, size, index), mask.resize((size, size), Image.Resampling.NEAREST)
        samples.append(Sample(stored_picture(picture, folder), "", stored_picture(mask, folder), concept=index % 2))
    return TrainingSet(tuple(samples), (Concept("sks", "cat"), Concept("zwx", "car")))


def _photographed(picture: Image.Image, size: int, seed: int) -> Image.Image:
    large = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng(seed).normal(0, GRAIN, large.shape)
    return Image.fromarray(np.clip(large + grain, 0, 255).round().astype(np.uint8))


def iou_row(quick: bool, folder: Path) -> Row:
    """The lowest IoU of the masks that composites carry with what is really seen of each subject.

    What is seen comes from Pillow alone: the same layers with sharp edges, one subject white and all else black.
    """
    count = 40 if quick else 400
    cuts = [cut_out(sample, PHOTOGRAPH) for sample in subjects(folder, 16).samples]
    ious = []
    for index in range(count):
        rng = np.random.default_rng([SCENES, index])
        chosen = [cuts[int(number)] for number in rng.choice(len(cuts), 1 + index % 3, replace=False)]
        size = (world.SIZE, PHOTOGRAPH)[index % 2]
        layers = arrange(chosen, size, (0.3, 0.9), rng, flip=True)
        carried = compose(Image.new("RGB", (size, size)), layers).masks
        for number, mask in enumerate(carried):
            seen = np.asarray(_only(layers, number, size))[..., 0] > 0
            ious.append(float((mask & seen).sum() / max((mask | seen).sum(), 1)))
    return Row("paste.mask_iou", min(ious), "IoU", "higher", None if quick else 1.0, None, len(ious))


def _only(layers: list[Layer], number: int, size: int) -> Image.Image:
    """The layers on black, `number` in white and the others in black, without soft edges."""
    picture = Image.new("RGB", (size, size))
    for place, layer in enumerate(layers):
        colour = "white" if place == number else "black"
        sharp = layer.alpha.point([0] * 128 + [255] * 128)
        picture.paste(Image.new("RGB", layer.colours.size, colour), layer.box[:2], sharp)
    return picture


def speed_row(quick: bool, folder: Path) -> Row:
    """Composites of 512 px a minute of processor time, with masks, captions and files."""
    variants = 6 if quick else 100
    some = subjects(folder, 8, PHOTOGRAPH)
    settings = PasteSettings(variants=variants, size=PHOTOGRAPH, together=0.3)
    began = time.process_time()
    made = paste(some, settings, folder / "composites").made
    minutes = (time.process_time() - began) / 60
    return Row("paste.per_minute", len(made) / minutes, "pictures", "higher", None if quick else 1000, None, len(made))


@dataclass
class Calls:
    count: int = 0


@contextmanager
def counted() -> Iterator[Calls]:
    """Counts the denoiser's evaluations, a picture of a batch each."""
    calls, forward = Calls(), UNet2DConditionModel.forward

    def counting(self: UNet2DConditionModel, sample: torch.Tensor, *args, **how):
        calls.count += len(sample)
        return forward(self, sample, *args, **how)

    with patch.object(UNet2DConditionModel, "forward", counting):
        yield calls


def second_run_row(quick: bool, folder: Path) -> Row:
    """Evaluations of the denoiser when the same priors are asked for again, and then fewer of them."""
    base = base_from_path(assemble.WEIGHTS)
    settings = PriorSettings(count=2 if quick else 8, steps=2 if quick else 8)
    asked = TrainingSet((), (Concept("sks", "cat"),))
    with counted() as first:
        made = make_priors(base, asked, settings, folder / "priors", torch.device("cpu"))
    if not first.count or made.drawn != settings.count:
        raise RuntimeError(f"the first run drew {made.drawn} pictures in {first.count} evaluations; the row is void")
    with counted() as second:
        again = make_priors(base, asked, settings, folder / "priors", torch.device("cpu"))
        make_priors(base, asked, replace(settings, count=1), folder / "priors", torch.device("cpu"))
    if again.pictures.key != made.pictures.key:
        raise RuntimeError("the second run gave other pictures; the row is void")
    return Row("priors.second_run_evaluations", float(second.count), "calls", "lower", 0.0, None, settings.count)
