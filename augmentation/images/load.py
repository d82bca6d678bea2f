"""Pictures of a subject as a training set: from a folder, or from tensors of a host."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...core.atomic import shortened
from ...core.errors import FewShotError
from ...core.images import decode, decode_mask, on_white, pixel_key, write_png
from ...core.text.words import same_word
from ...core.values import Concept, Picture, Sample, TrainingSet
from ..captions.identifiers import with_subject
from ..folder.files import PictureFile, picture_files
from ..folder.names import listed, verb
from ..folder.rest import named_otherwise
from .crop import Crop, fit_to, same_aspect
from .quality import shape_notes

__all__ = [
    "Crop", "fit_to", "load_mask", "load_picture", "masks_from_tensors", "picture_of",
    "pictures_from_tensors", "stored_picture", "subject_concept", "subject_from_folder", "subject_from_tensors",
]  # fmt: skip

log = logging.getLogger(__name__)
PROMPT_SIGNS = "()<>{}[]|\\:"  # which prompts read as something else than words
DARKEST_MASK = 16  # of 255: below are numbers of labels, not a shape


def subject_concept(identifier: str, noun: str, description: str = "") -> Concept:
    """The concept of these words.

    Raises:
        FewShotError: no identifier, no noun, both the same word, or a noun with signs that no plain words have.
    """
    identifier, noun, description = (" ".join(word.split()) for word in (identifier, noun, description))
    if not identifier:
        raise FewShotError('the identifier is empty; give a rare word that stands for your subject, such as "sks"')
    if not noun:
        raise FewShotError('the class noun is empty; say what your subject is, such as "dog" or "backpack"')
    for name, words in (("class noun", noun), ("description", description)):
        if signs := "".join(sorted(set(words) & set(PROMPT_SIGNS))):
            raise FewShotError(
                f"the {name} is '{words}', and holds {signs}: give plain words, such as 'dog'; weights, LoRAs and "
                "wildcards belong into prompts"
            )
    if same_word(identifier, noun):
        raise FewShotError(f'identifier and class noun are both "{noun}"; choose a rare identifier, such as "sks"')
    return Concept(identifier=identifier, noun=noun, description=description)


def picture_of(path: Path, notes: list[str] | None = None) -> Picture:
    """The `Picture` of the file `path`; FewShotError when it cannot be read. `notes` as in `decode`."""
    pixels = decode(path, notes)[0]
    if notes is not None:
        notes.extend(shape_notes(path.name, pixels.size))
    return _picture_value(path, pixels)


def _picture_value(path: Path, pixels: Image.Image) -> Picture:
    return Picture(path=path, key=pixel_key(pixels), width=pixels.width, height=pixels.height)


def load_picture(picture: Picture) -> Image.Image:
    """The RGB pixels of `picture`; FewShotError when the file is gone or has changed."""
    return _unchanged(picture, decode(picture.path)[0])


def load_mask(picture: Picture) -> Image.Image:
    """The mask that `picture` names, mode "L", white where the subject is; errors as `load_picture`."""
    return _unchanged(picture, decode_mask(picture.path))


def _unchanged(picture: Picture, pixels: Image.Image) -> Image.Image:
    if pixel_key(pixels) != picture.key:
        raise FewShotError(f"{picture.path} was changed after it was read; read the pictures again")
    return pixels


# ------------------------------------------------------------------------------------------------------- folders


def subject_from_folder(
    folder: Path, identifier: str, noun: str, description: str = "", warnings: list[str] | None = None
) -> TrainingSet:
    """Read the pictures in `folder` as references of one subject.

    A caption comes from the file of the same name ending in .txt, or from any other form that is usual (see
    `folder.captions`), and gets the identifier where it lacks it, see `identifiers.with_subject`; without one it is
    "a photo of" the subject. A mask, white on the subject, comes from `name_mask.png` or another usual name (see
    `folder.masks`), else from transparency. Folders `N_name` inside (kohya's layout) are read too: N is the weight of
    their pictures. What was skipped is logged and appended to `warnings`.

    Raises:
        FewShotError: no such folder, no pictures in it, none of them readable, or unusable words.
    """
    concept = subject_concept(identifier, noun, description)
    notes: list[str] = []
    files = picture_files(folder, notes)
    read = [(file, sample) for file in files if (sample := _sample(file, folder, concept, notes)) is not None]
    notes += _caption_notes([file for file, _ in read])
    notes += _same_pictures([sample.image for _, sample in read])
    notes += named_otherwise(folder, [file.path.parent for file, _ in read], concept)
    for note in notes:
        log.warning("%s", note)
    if warnings is not None:
        warnings.extend(notes)
    if not files:
        raise FewShotError(f"there are no pictures in {folder}, only masks: {'; '.join(notes[:3])}")
    if not read:
        raise FewShotError(f"none of the {len(files)} pictures in {folder} can be read: {'; '.join(notes[:3])}")
    return TrainingSet(samples=tuple(sample for _, sample in read), concepts=(concept,))


def _caption_notes(files: Sequence[PictureFile]) -> list[str]:
    """What became of several captions of one picture."""
    several = [file for file in files if len(file.caption.lines) > 1]
    joined = [file.caption.source for file in several if not file.caption.is_list]
    first = [f"{file.path.name} ({file.caption.source})" for file in several if file.caption.is_list]
    notes = []
    if joined:
        notes.append(f"{listed(joined)} {verb(joined, 'has', 'have')} several lines, which are joined to one caption")
    if first:
        notes.append(f"of several captions the first is taken for {listed(first)}")
    return notes


def _same_pictures(pictures: Sequence[Picture]) -> list[str]:
    """Names the pictures that are there twice, pixel by pixel."""
    by_key: dict[str, list[str]] = {}
    for picture in pictures:
        by_key.setdefault(picture.key, []).append(picture.path.name)
    return [
        f"{listed(names)} are the same picture, which counts {len(names)} times"
        for names in by_key.values()
        if names[1:]
    ]


def _sample(file: PictureFile, folder: Path, concept: Concept, notes: list[str]) -> Sample | None:
    name = file.path.relative_to(folder).as_posix()
    try:
        pixels, alpha = decode(file.path, notes)
        notes += shape_notes(name, pixels.size)
    except FewShotError as error:
        notes.append(f"{name} was left out: {error}")
        return None
    path, mask = file.path, alpha
    if file.mask is not None:
        path = file.mask
        try:
            mask = decode_mask(path, notes)
        except FewShotError as error:
            notes.append(f"{name} is used without its mask: {error}")
            mask = None
    return Sample(
        image=_picture_value(file.path, pixels),
        caption=with_subject(file.caption.text, concept),
        mask=_picture_value(path, mask) if mask is not None and _is_usable_mask(mask, pixels, name, notes) else None,
        weight=file.weight,
    )


def _is_usable_mask(mask: Image.Image, pixels: Image.Image, name: str, notes: list[str]) -> bool:
    brightest = int(np.asarray(mask).max())
    if brightest < DARKEST_MASK:
        how = "empty" if brightest == 0 else f"nearly black ({brightest} of 255); save it in white on black"
        notes.append(f"{name} is used without its mask: the mask is {how}")
        return False
    if not same_aspect(mask.size, pixels.size):
        notes.append(
            f"{name} is used without its mask: the mask has {mask.width} x {mask.height} pixels, "
            f"the picture {pixels.width} x {pixels.height}"
        )
        return False
    return True


# ------------------------------------------------------------------------------------------------------- tensors


def subject_from_tensors(
    images: torch.Tensor | Sequence[torch.Tensor],
    masks: torch.Tensor | Sequence[torch.Tensor] | None,
    cache: Path,
    concept: Concept,
    captions: str | Sequence[str] | None = None,
    warnings: list[str] | None = None,
) -> TrainingSet:
    """Pictures (B, H, W, 3 or 4) in [0, 1] and masks (B, h, w), white on the subject, as references of `concept`.

    Both may also be lists of such tensors, of different sizes. The pixels are written to `cache` as PNG files named by
    their content. One mask or one caption serves all pictures; an empty mask is none, as ComfyUI gives an empty mask
    of 64 x 64 with every picture that has no transparency. A fourth channel is transparency: the picture is laid on
    white by it, and it is the mask where `masks` is None.

    Raises:
        FewShotError: no pictures, another shape, values that are not numbers, or a number of masks or captions that
            is neither one nor that of the pictures.
    """
    pictures = [_to_picture(p) for p in _unbatched(images, 4, "pictures")]
    if not pictures:
        raise FewShotError("there are no pictures; connect at least one")
    shapes = _broadcast(None if masks is None else _unbatched(masks, 3, "masks"), len(pictures), "masks")
    texts = _broadcast([captions] if isinstance(captions, str) else captions, len(pictures), "captions")
    notes: list[str] = []
    samples = []
    for number, ((pixels, alpha), shape, text) in enumerate(zip(pictures, shapes, texts, strict=True), 1):
        notes += shape_notes(f"picture {number}", pixels.size)
        mask = alpha if shape is None else Image.fromarray(_bytes(shape))
        if mask is not None and mask.getextrema()[1] == 0:
            mask = None
        if mask is not None and not _is_usable_mask(mask, pixels, f"picture {number}", notes):
            mask = None
        samples.append(
            Sample(
                image=stored_picture(pixels, cache),
                caption=with_subject(text or "", concept),
                mask=None if mask is None else stored_picture(mask, cache),
            )
        )
    for note in notes:
        log.warning("%s", note)
    if warnings is not None:
        warnings.extend(notes)
    return TrainingSet(samples=tuple(samples), concepts=(concept,))


def pictures_from_tensors(images: torch.Tensor | Sequence[torch.Tensor], cache: Path) -> list[Picture]:
    """Pictures (B, H, W, 1, 3 or 4) in [0, 1] as PNG files in `cache`. Raises FewShotError where there are none."""
    pictures = [_to_picture(p)[0] for p in _unbatched(images, 4, "pictures")]
    if not pictures:
        raise FewShotError("there are no pictures; connect at least one")
    return [stored_picture(pixels, cache) for pixels in pictures]


def masks_from_tensors(masks: torch.Tensor | Sequence[torch.Tensor]) -> list[Image.Image]:
    """Masks (B, h, w) in [0, 1], or a list of such, as pictures of the mode "L"."""
    return [Image.fromarray(_bytes(mask)) for mask in _unbatched(masks, 3, "masks")]


def _unbatched(given: torch.Tensor | Sequence[torch.Tensor], dims: int, what: str) -> list[torch.Tensor]:
    """`given`, batch or list of batches, as single pictures or masks."""
    batches = [given] if isinstance(given, torch.Tensor) else list(given)
    singles: list[torch.Tensor] = []
    for batch in batches:
        if batch.dim() == dims - 1:
            batch = batch.unsqueeze(0)
        if batch.dim() != dims:
            form = "(batch, height, width, channels)" if dims == 4 else "(batch, height, width)"
            raise FewShotError(f"{what} come as {form}; these have the shape {tuple(batch.shape)}")
        singles.extend(batch)
    return singles


def _broadcast(given: Sequence | None, count: int, what: str) -> list:
    """`given` stretched to `count` entries; None stands for none."""
    if given is None:
        return [None] * count
    if len(given) not in (1, count):
        raise FewShotError(f"there are {count} pictures but {len(given)} {what}; give one for all or one for each")
    return list(given) * (count if len(given) == 1 else 1)


def _to_picture(values: torch.Tensor) -> tuple[Image.Image, Image.Image | None]:
    if values.shape[-1] not in (1, 3, 4):
        raise FewShotError(f"pictures have 1, 3 or 4 channels; this one has {values.shape[-1]}")
    pixels = _bytes(values)
    colours = Image.fromarray(pixels[..., 0] if values.shape[-1] == 1 else pixels[..., :3]).convert("RGB")
    if values.shape[-1] < 4 or not pixels[..., 3].any():
        return colours, None
    return on_white(colours, Image.fromarray(np.ascontiguousarray(pixels[..., 3])))


def _bytes(values: torch.Tensor) -> np.ndarray:
    if 0 in values.shape:
        raise FewShotError(f"a picture or mask is empty: its shape is {tuple(values.shape)}")
    values = values.detach().float().cpu()
    if not torch.isfinite(values).all():
        raise FewShotError("a picture or mask holds values that are not numbers (NaN); mend the node that makes it")
    return np.ascontiguousarray((values.clamp(0, 1) * 255).round().to(torch.uint8).numpy())


def stored_picture(pixels: Image.Image, cache: Path, fast: bool = False, stem: str = "") -> Picture:
    """`pixels` as a PNG file in `cache`, named by their key and written once; `fast` as in `write_png`.

    With `stem` the name begins with it, so that messages show the picture's own name.
    """
    key = pixel_key(pixels)
    path = cache / (f"{shortened(stem[:80], 200)}_{key[:16]}.png" if stem else f"{key}.png")
    return Picture(path if path.is_file() else write_png(pixels, path, fast), key, pixels.width, pixels.height)
