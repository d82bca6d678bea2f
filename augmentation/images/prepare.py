"""Prepares pictures for training: crops, sizes and checks them, and reports each with its warnings."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageChops

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.values import Part, Picture, Sample, TrainingSet
from .crop import as_large, crop_box
from .load import load_mask, load_picture, stored_picture
from .quality import MIN_SHARPNESS, ImageFingerprint, face_finder, sharpness

log = logging.getLogger(__name__)
CROPS = ("subject", "face", "centre", "buckets", "none")
# Tokens that CLIP's text encoders read; the first and last are not words.
TOKEN_WINDOW = 77
MAX_ASPECT = 2.0
# Share of the subject's mask below which a crop is reported.
MIN_SUBJECT_KEPT = 0.9


@dataclass(frozen=True)
class PrepareSettings:
    """How pictures are prepared.

    crop: square around the mask ("subject"), around a face, or in the middle; to the nearest of the usual aspects
        ("buckets"), or not at all.
    resolution: side of a square in pixels; of a bucket the square root of its area.
    tightness: 0 keeps as much of the picture as fits, 1 the subject or face and nothing else.
    """

    crop: Literal["subject", "face", "centre", "buckets", "none"] = "subject"
    resolution: int = field(default=512, metadata={"min": 8, "max": 4096, "help": "side of a square in pixels"})
    upscale: bool = False
    duplicates: Literal["leave out", "keep"] = "leave out"
    tightness: float = field(default=0.0, metadata={"min": 0.0, "max": 1.0, "help": "how closely the crop fits"})

    def __post_init__(self):
        for name, about in ((f.name, f.metadata) for f in self.__dataclass_fields__.values()):
            value = getattr(self, name)
            if about and not about["min"] <= value <= about["max"]:
                allowed = f"from {about['min']} to {about['max']}"
                raise FewShotError(f"preparing: {name} is {value}; choose a value {allowed} ({about['help']})")
        if self.crop not in CROPS:
            raise FewShotError(f"preparing: crop is {self.crop!r}; choose one of {', '.join(CROPS)}")
        if self.duplicates not in ("leave out", "keep"):
            raise FewShotError(f"preparing: duplicates is {self.duplicates!r}; choose leave out or keep")


@dataclass(frozen=True)
class PreparedPicture:
    """The report's row on one picture; `sample` is None where it was left out."""

    name: str
    size: tuple[int, int]
    crop: tuple[int, int, int, int]
    bucket: tuple[int, int]
    tokens: int | None = None
    warnings: tuple[str, ...] = ()
    sample: Sample | None = None


def prepare(
    pictures: TrainingSet,
    settings: PrepareSettings,
    cache: Path,
    progress: Progress | None = None,
    tokens: Callable[[str], int] | None = None,
) -> tuple[TrainingSet, list[PreparedPicture]]:
    """The references of `pictures` cropped and sized, written to `cache` as PNG files, and a row on each of them.

    Priors and composites stay as they are. A picture that cannot be read or cropped any more is named and left out.
    Samples of one picture (with several captions) all stay; a duplicate is another file with the same subject.

    Args:
        tokens: counts the tokens of a caption, without the first and the last.

    Raises:
        FewShotError: no picture is left, or faces are asked for and scikit-image is missing.
    """
    progress = progress or NullProgress()
    todo = [sample for sample in pictures.references if not sample.pasted]
    if not todo:
        raise FewShotError("the set has no pictures of a subject to prepare")
    made: list[Sample] = []
    rows: list[PreparedPicture] = []
    find_face = face_finder() if settings.crop == "face" else None
    preparer = _Preparer(settings, cache, find_face, tokens)
    for sample in pictures.samples:
        progress.check()
        if sample.role != "reference" or sample.pasted:
            made.append(sample)
            continue
        row = preparer.row(sample)
        rows.append(row)
        if row.sample is not None:
            made.append(row.sample)
        progress.report(len(rows), len(todo), f"{row.name}: {'; '.join(row.warnings) or 'well'}")
    for line in dict.fromkeys(f"{row.name}: {'; '.join(row.warnings)}" for row in rows if row.warnings):
        log.warning("%s", line)
    if all(row.sample is None for row in rows):
        first = "; ".join(f"{row.name}: {', '.join(row.warnings)}" for row in rows[:3])
        raise FewShotError(f"none of the {len(rows)} pictures is left: {first}")
    return pictures.with_samples(tuple(made)), rows


@dataclass
class _Preparer:
    """Prepares the samples of one set.

    find_face: the detector where crops are around faces. fingerprints: of each picture so far, with its subject. rows:
    by picture and masks, since a picture with several captions is in a set several times and is prepared once.
    """

    settings: PrepareSettings
    cache: Path
    find_face: Callable | None
    count_tokens: Callable[[str], int] | None
    fingerprints: list[tuple[Picture, int, ImageFingerprint]] = field(default_factory=list)
    rows: dict[tuple, PreparedPicture] = field(default_factory=dict)

    def row(self, sample: Sample) -> PreparedPicture:
        """The row of one sample; its picture is prepared unless another sample of it was."""
        which = (sample.image.path, sample.image, sample.concept, sample.mask, sample.others)
        if which not in self.rows:
            self.rows[which] = self._picture(sample)
        row = self.rows[which]
        if row.sample is None:
            return row
        made, warnings = row.sample, row.warnings
        tokens = self.count_tokens(sample.caption) + 2 if self.count_tokens else None
        if tokens is not None and tokens > TOKEN_WINDOW:
            warnings = (*warnings, f"the caption has {tokens} tokens; of {TOKEN_WINDOW} the rest is not read")
        own = replace(sample, image=made.image, mask=made.mask, others=made.others)
        return replace(row, tokens=tokens, warnings=warnings, sample=own)

    def _picture(self, sample: Sample) -> PreparedPicture:
        """Crop, size and examine one picture."""
        size = (sample.image.width, sample.image.height)
        row = PreparedPicture(sample.image.path.name, size, (0, 0, *size), size)
        try:
            picture = load_picture(sample.image)
            masks = {number: as_large(load_mask(mask), picture) for number, mask in sample.masks.items()}
        except FewShotError as error:
            return replace(row, warnings=(f"left out: {error}",))
        warnings: list[str] = []
        duplicate = self._duplicate_of(sample, picture)
        if duplicate and self.settings.duplicates == "leave out":
            return replace(row, warnings=(f"left out: the same picture as {duplicate}",))
        if duplicate:
            warnings.append(f"the same picture as {duplicate}")
        fitted = self._fitted(sample, picture, masks, warnings)
        if (sharp := sharpness(picture.crop(fitted.crop))) < MIN_SHARPNESS:
            warnings.append(f"blurred: sharpness {sharp:.0f}, below {MIN_SHARPNESS:.0f}")
        return replace(fitted, warnings=tuple(warnings))

    def _duplicate_of(self, sample: Sample, picture: Image.Image) -> str:
        """The name of an earlier file with the same picture of the same subject; "" without."""
        own, image = ImageFingerprint(picture), sample.image
        earlier = [
            (other, fingerprint)
            for other, concept, fingerprint in self.fingerprints
            if concept == sample.concept and other.path != image.path
        ]
        self.fingerprints.append((image, sample.concept, own))
        return next((other.path.name for other, fingerprint in earlier if own.same(fingerprint)), "")

    def _fitted(
        self, sample: Sample, picture: Image.Image, masks: dict[int, Image.Image], warnings: list[str]
    ) -> PreparedPicture:
        """The cropped and sized picture with its masks."""
        settings = self.settings
        union = reduce(ImageChops.lighter, masks.values()) if masks else None
        box, bucket = (0, 0, *picture.size), picture.size
        if settings.crop != "none":
            bucket = nearest_bucket(picture.size, settings.resolution) if settings.crop == "buckets" else None
            bucket = bucket or (settings.resolution, settings.resolution)
            box = _crop(picture, self._subject_box(picture, union, warnings), bucket, settings.tightness)
        size = box[2] - box[0], box[3] - box[1]
        if settings.crop == "none":
            scale = settings.resolution / math.sqrt(size[0] * size[1])
            target = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        else:
            target = bucket
        if size[0] < target[0]:
            done = (
                f"enlarged from {size[0]} x {size[1]}" if settings.upscale else f"small: {size[0]} x {size[1]} pixels"
            )
            warnings.append(f"{done}, wanted {target[0]} x {target[1]}")
        if size[0] >= target[0] or settings.upscale:
            size = target
        _warn_cropped(union, box, warnings)

        def cut(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
            if size == (box[2] - box[0], box[3] - box[1]):
                return image.crop(box)
            return image.resize(size, resampling, box=box)

        cache = self.cache
        stored = {n: stored_picture(cut(mask, Image.Resampling.BILINEAR), cache) for n, mask in masks.items()}
        image = stored_picture(cut(picture, Image.Resampling.LANCZOS), cache, stem=sample.image.path.stem)
        if (image.key, [m.key for m in stored.values()]) == (sample.image.key, [m.key for m in sample.masks.values()]):
            new = sample
        else:
            others = tuple(Part(part.concept, stored[part.concept]) for part in sample.others)
            new = replace(sample, image=image, mask=stored.get(sample.concept), others=others)
        return PreparedPicture(sample.image.path.name, picture.size, box, size, sample=new)

    def _subject_box(
        self, picture: Image.Image, union: Image.Image | None, warnings: list[str]
    ) -> tuple[float, float, float, float]:
        """The box (left, top, right, bottom) that a crop is laid around; the picture's own where there is none."""
        if self.settings.crop == "face" and self.find_face is not None:
            face = self.find_face(picture)
            if face is not None:
                return face
            warnings.append("no face was found")
        if self.settings.crop != "centre" and union is not None:
            box = union.point([0] * 128 + [255] * 128).getbbox()
            if box is not None:
                return box
            warnings.append("its mask is empty")
        return (0, 0, *picture.size)


def _crop(
    picture: Image.Image, around: Sequence[float], bucket: tuple[int, int], tightness: float
) -> tuple[int, int, int, int]:
    """A box of the bucket's aspect around `around`, in integer pixels."""
    middle = ((around[0] + around[2]) / 2, (around[1] + around[3]) / 2)
    largest = crop_box(picture.size, *bucket, middle)
    wide, high = largest[2] - largest[0], largest[3] - largest[1]
    needed = max((around[2] - around[0]) / wide, (around[3] - around[1]) / high)
    part = 1 - tightness * (1 - min(1.0, needed))
    left, top, right, bottom = crop_box(picture.size, *bucket, middle, part)
    size = max(1, round(right - left)), max(1, round(bottom - top))
    x, y = min(round(left), picture.width - size[0]), min(round(top), picture.height - size[1])
    return x, y, x + size[0], y + size[1]


def _warn_cropped(union: Image.Image | None, box: tuple[int, int, int, int], warnings: list[str]) -> None:
    if union is None:
        return
    values = np.asarray(union) >= 128
    if values.any() and (kept := values[box[1] : box[3], box[0] : box[2]].sum() / values.sum()) < MIN_SUBJECT_KEPT:
        warnings.append(f"the crop cuts off {1 - kept:.0%} of the subject")


def buckets(resolution: int) -> list[tuple[int, int]]:
    """Sizes (w, h) of up to `resolution` squared pixels, in steps of 64 (8 for small ones), no longer than 2 : 1."""
    step = 64 if resolution >= 512 else 8
    sizes = []
    for width in range(step, 2 * resolution + 1, step):
        height = resolution * resolution // width // step * step
        if height and max(width, height) <= MAX_ASPECT * min(width, height):
            sizes.append((width, height))
    return sizes or [(resolution, resolution)]


def nearest_bucket(size: tuple[int, int], resolution: int) -> tuple[int, int]:
    """The bucket whose aspect is nearest to that of `size` (w, h)."""
    aspect = math.log(size[0] / size[1])
    return min(buckets(resolution), key=lambda bucket: (abs(math.log(bucket[0] / bucket[1]) - aspect), -bucket[0]))


def one_row_per_picture(rows: Sequence[PreparedPicture]) -> list[PreparedPicture]:
    """The rows; for a picture with several captions only that of the longest."""
    longest: dict[tuple, PreparedPicture] = {}
    for row in rows:
        made = row.sample
        which = (row.name, row.size, row.crop, None if made is None else (made.image, made.mask, made.concept))
        if which not in longest or (row.tokens or 0) > (longest[which].tokens or 0):
            longest[which] = row
    return list(longest.values())


def table(rows: Sequence[PreparedPicture]) -> str:
    """Lines of file, size, crop, size after, tokens of the longest caption, and warnings, for each picture."""
    lines = [("file", "size", "crop", "made", "tokens", "warnings")]
    for row in one_row_per_picture(rows):
        cut = row.crop[2] - row.crop[0], row.crop[3] - row.crop[1]
        crop = "whole" if cut == row.size else f"{cut[0]}x{cut[1]}+{row.crop[0]}+{row.crop[1]}"
        gone = row.sample is None
        lines.append((
            row.name, f"{row.size[0]}x{row.size[1]}", "-" if gone else crop,
            "-" if gone else f"{row.bucket[0]}x{row.bucket[1]}",
            "-" if row.tokens is None else f"{row.tokens}/{TOKEN_WINDOW}", "; ".join(row.warnings),
        ))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(
        "  ".join([*(text.ljust(width) for text, width in zip(line, widths, strict=False)), line[5]]).rstrip()
        for line in lines
    )
