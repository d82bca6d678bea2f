"""Rows of the bench `augment` on pictures: pasting and priors."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from ...augmentation.composites.paste import PasteSettings, paste
from ...augmentation.images.load import load_mask, load_picture, stored_picture
from ...augmentation.priors import generate
from ...augmentation.priors.generate import PriorSettings, generate_priors
from ...core.context import RunContext
from ...core.values import Concept, Sample, TrainingSet
from ...models.contract import DiffusionModel
from ...models.open import base_from_path, open_base
from ...pocket.models.weights import WEIGHTS
from ...pocket.world import drawing, world
from ..harness.rows import BenchmarkRow

SCENES = 611  # a stream of scenes of its own
PHOTOGRAPH = 512  # pixels
FLAT = np.array([[255, 0, 0], [0, 0, 255]], np.float64)  # colours of two subjects that no background has
ROUNDING = 0.006  # of a share in [0, 1], by which a pixel's 8 bits and an opacity's may be off
GRAIN = 8.0  # standard deviation of a camera's noise, of 255: without it drawn pictures are written too fast


def parts(quick: bool) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    """`paste.*` and `priors.*`."""

    def measured(row: Callable[[bool, Path], BenchmarkRow]) -> list[BenchmarkRow]:
        with tempfile.TemporaryDirectory() as scratch:
            return [row(quick, Path(scratch))]

    return {
        "paste_masks": lambda: measured(iou_row),
        "paste_speed": lambda: measured(speed_row),
        "priors": lambda: measured(second_run_row),
    }


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


def flat_subjects(folder: Path, count: int, size: int) -> TrainingSet:
    """Subjects in the shapes of the pocket's, each flat in its concept's colour, before grain of all colours."""
    samples = []
    for index in range(count):
        _, masks = drawing.render(world.scene_of(SCENES, index))
        shape = Image.fromarray(np.asarray(masks[0])).convert("L").resize((size, size), Image.Resampling.NEAREST)
        behind = np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)
        picture = Image.fromarray(
            np.where(np.asarray(shape)[..., None] >= 128, FLAT[index % 2], behind).astype(np.uint8)
        )
        samples.append(Sample(stored_picture(picture, folder), "", stored_picture(shape, folder), concept=index % 2))
    return TrainingSet(tuple(samples), (Concept("sks", "cat"), Concept("zwx", "car")))


def iou_row(quick: bool, folder: Path) -> BenchmarkRow:
    """The lowest IoU of the masks that `paste` writes with what the pixels that it writes show of each subject.

    Subjects are flat and red or blue, and the ground is of one colour, so that each pixel of a file gives the shares of
    both.
    """
    ious, undecided = [], 0
    for size in (world.SIZE, PHOTOGRAPH):
        some = flat_subjects(folder, 4 if quick else 16, size)
        settings = PasteSettings(variants=3 if quick else 12, size=size, together=0.5, background="solid")
        for sample in paste(some, settings, folder / "composites").made:
            masks = {number: np.asarray(load_mask(mask)) >= 128 for number, mask in sample.masks.items()}
            iou, unclear = visible_iou(np.asarray(load_picture(sample.image), np.float64), masks)
            ious.append(iou)
            undecided += unclear
    note = f"{undecided} pixels that are just half a subject are not counted"
    return BenchmarkRow("paste.mask_iou", min(ious), "IoU", "higher", None if quick else 1.0, None, len(ious), note)


def visible_iou(pixels: np.ndarray, masks: Mapping[int, np.ndarray]) -> tuple[float, int]:
    """The lowest IoU of `masks` with what `pixels` (H, W, 3) shows, and how many pixels are undecided.

    A pixel is a mix of the ground and of the two subjects' colours; the three shares solve a linear system. Which
    subject is in front is unknown from one pixel, so the order that fits better counts.
    """
    plain = pixels.reshape(-1, 3)
    others = plain[~(plain[:, None] == FLAT).all(2).any(1)]
    colours, counts = np.unique(others, axis=0, return_counts=True)
    ground = colours[counts.argmax()]
    shares = np.linalg.lstsq((FLAT - ground).T, (plain - ground).T, rcond=None)[0].reshape(2, *pixels.shape[:2])
    best, unclear = 0.0, 0
    for front in (0, 1):
        back = 1 - front
        behind = shares[back] / np.maximum(1 - shares[front], 1e-9)  # opacity of the one behind
        visible = {front: shares[front] >= 0.5, back: (shares[front] < 0.5) & (behind >= 0.5)}
        clear = np.abs(shares[front] - 0.5) > ROUNDING
        clear &= (np.abs(behind - 0.5) > ROUNDING / np.maximum(1 - shares[front], ROUNDING)) | (shares[front] > 0.5)
        lowest = min(
            _iou(masks.get(number, np.zeros_like(clear)) & clear, visible[number] & clear) for number in visible
        )
        if lowest >= best:
            best, unclear = lowest, int((~clear).sum())
    return best, unclear


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum()) if (one | other).any() else 1.0


def speed_row(quick: bool, folder: Path) -> BenchmarkRow:
    """Composites of 512 px a minute of processor time, with masks, captions and files."""
    variants = 6 if quick else 100
    some = subjects(folder, 8, PHOTOGRAPH)
    settings = PasteSettings(variants=variants, size=PHOTOGRAPH, together=0.3)
    began = time.process_time()
    made = paste(some, settings, folder / "composites").made
    minutes = (time.process_time() - began) / 60
    return BenchmarkRow(
        "paste.per_minute", len(made) / minutes, "pictures", "higher", None if quick else 1000, None, len(made)
    )


@dataclass
class Calls:
    count: int = 0


@contextmanager
def counted() -> Iterator[Calls]:
    """Counts the denoiser's evaluations for priors, a picture of a batch each."""
    calls = Calls()

    def count(levels: torch.Tensor) -> None:
        calls.count += len(levels)

    @contextmanager
    def opened(*args, **how) -> Iterator[DiffusionModel]:
        with open_base(*args, **how) as model:
            model.before_predict.append(count)
            yield model

    with patch.object(generate, "open_base", opened):
        yield calls


def second_run_row(quick: bool, folder: Path) -> BenchmarkRow:
    """Evaluations of the denoiser when the same priors are requested again, and then fewer of them."""
    base = base_from_path(WEIGHTS)
    settings = PriorSettings(count=2 if quick else 8, steps=2 if quick else 8)
    concept_set = TrainingSet((), (Concept("sks", "cat"),))
    with counted() as first:
        made = generate_priors(base, concept_set, settings, RunContext(folder / "priors", torch.device("cpu")))
    if not first.count or made.drawn != settings.count:
        raise RuntimeError(f"the first run drew {made.drawn} pictures in {first.count} evaluations; the row is void")
    with counted() as second:
        again = generate_priors(base, concept_set, settings, RunContext(folder / "priors", torch.device("cpu")))
        generate_priors(
            base, concept_set, replace(settings, count=1), RunContext(folder / "priors", torch.device("cpu"))
        )
    if again.pictures.key != made.pictures.key:
        raise RuntimeError("the second run gave other pictures; the row is void")
    return BenchmarkRow(
        "priors.second_run_evaluations", float(second.count), "calls", "lower", 0.0, None, settings.count
    )
