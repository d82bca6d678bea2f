"""Which pictures of a folder are masks of others: by their names, and by how they look.

Nothing that is a mask may be learned as a picture: what looks like one and belongs to no picture is left out and named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ...core.errors import FewShotError
from ...core.images import PICTURE_ENDINGS, decode, open_picture
from .names import listed, verb, words_of

MASK_WORDS = {
    "mask", "masks", "masklabel", "alpha", "matte", "segmentation", "segmask", "seg", "silhouette", "maske", "masque",
    "маска", "マスク", "마스크", "蒙版", "遮罩", "掩码",
}  # fmt: skip
CONTROL_WORDS = {
    "depth", "depthmap", "normal", "normals", "normalmap", "canny", "openpose", "dwpose", "lineart", "scribble",
    "softedge", "mlsd", "trimap", "conditioning", "condlabel", "control", "controlnet", "skeleton", "keypoints",
    "densepose",
}  # fmt: skip
MASK_FOLDERS = MASK_WORDS | {"mattes", "alphas", "conditioning", "segmentations"}
ENDINGS = {ending[1:] for ending in PICTURE_ENDINGS}
SIDE = 256  # pixels; how large a picture is looked at
DARK, BRIGHT, LEAST = 24, 231, 0.001  # grey levels, and a share of pixels
TWO_VALUED, SOFT = 0.97, 0.8  # shares of pixels; the edges of a soft mask are grey, and its name tells the rest
GREY = 16  # difference of channels
_ALWAYS = re.compile(r"\w[._-](mask|masks|masklabel)$", re.IGNORECASE)  # never a picture of the subject
_NUMBERED = re.compile(r"(\D+)\d+")
# The better a name says whose mask a file is, the lower.
EXACT, NAMED, FRONT, NUMBERED, IN_FOLDER, BY_LOOK = range(6)
ByWords = dict[tuple[str, ...], list[Path]]


@dataclass
class Masks:
    """Of the pictures of one folder: which are used, the mask of each, and what is to be said."""

    pictures: list[Path]
    of: dict[Path, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_mask_folder(folder: Path) -> bool:
    words = words_of(folder.name)
    return bool(words) and not words[0].isdigit() and bool(MASK_FOLDERS & set(words))


def find_masks(files: Sequence[Path], folders: Sequence[Path], captioned: Collection[Path]) -> Masks:
    """Tell masks among the picture files of a folder, and in its folders of masks, from pictures.

    A file with a caption of its own is a picture, except "a_mask.png" in black and white beside its "a.png": programs
    caption whole folders. A file in black and white alone that is named for no picture is a picture where all are.
    """
    all_files = _by_words(files)
    whose = {file: _owners_by_name(file, all_files) for file in files}
    free = {file for file in captioned if not (whose[file] and _ALWAYS.search(file.stem) and looks_like_mask(file))}
    named = {file for file in files if file not in free and (whose[file] or _is_named_as_mask(file))}
    controlled = {file: _controlled(file, all_files) for file in files if file not in free}
    controls = {file: owner for file, owner in controlled.items() if owner is not None}
    others = [file for file in files if file not in named and file not in controls]
    by_words = _by_words(others)
    alike = {file for file in others if looks_like_mask(file, SOFT if _owner_by_words(file, by_words) else TWO_VALUED)}
    plain = _by_words(file for file in others if file not in alike)
    found = Masks([file for file in others if file not in alike or file in free or not plain])
    for file in (file for file in others if file in free and file in alike):
        if owner := next((other for _, other in whose[file]), _owner_by_words(file, plain)):
            found.notes.append(
                f"{file.name} is used as a picture, for it has a caption of its own; it looks like a mask of "
                f"{owner.name}: if it is one, take the caption away"
            )
    found.notes += [
        f"{file.name} is used as a picture: by its name it is a mask, but it is a photo in grey"
        for file in others
        if file not in free and file not in alike and _is_grey_photo(file) and _names_in_front(file, all_files)
    ]
    used = set(found.pictures)
    candidates: dict[Path, list[tuple[int, Path]]] = {}
    _sort_named([file for file in files if file in named], whose, found, candidates)
    for file in (file for file in others if file not in used):
        owner = _owner_by_words(file, plain)
        if owner is None:
            found.notes.append(
                f"{file.name} was left out: it is in black and white alone, as masks are, and no picture has its name; "
                f"if it shows the subject, write its caption into {file.stem}.txt"
            )
        else:
            candidates.setdefault(owner, []).append((BY_LOOK, file))
    for file, owner in controls.items():
        found.notes.append(f"{file.name} was left out: by its name it is a control map of {owner.name}")
    for folder in folders:
        _sort_folder(folder, found, candidates)
    _choose(candidates, found)
    if not plain and len(others) > 1:
        found.notes.append(
            "all pictures are in black and white alone; if they are masks, choose the folder of their pictures"
        )
    return found


def _bases(file: Path) -> list[tuple[int, tuple[str, ...]]]:
    """The words that are left of a mask's name without the words that make it one, with how well it is named."""
    words = words_of(file.stem)
    found: list[tuple[int, tuple[str, ...]]] = []
    last = words[-1] if words else ""
    numbered = _NUMBERED.fullmatch(last)
    if last in MASK_WORDS:
        rank = EXACT if last in ("mask", "masklabel") else NAMED
        found += [(rank, words[:-1])] + [(NUMBERED, words[:-2])] * (len(words) > 2 and words[-2].isdigit())
    elif numbered and numbered[1] in MASK_WORDS:
        found.append((NUMBERED, words[:-1]))
    elif last.isdigit() and len(words) > 1 and words[-2] in MASK_WORDS:
        found.append((NUMBERED, words[:-2]))
    elif last.endswith("mask"):
        found.append((NAMED, (*words[:-1], last[: -len("mask")])))
    if words and words[0] in MASK_WORDS:
        found.append((FRONT, words[1:]))
    elif words and words[0].startswith("mask"):
        found.append((FRONT, (words[0][len("mask") :], *words[1:])))
    double = [(rank, base[:-1]) for rank, base in found if len(base) > 1 and base[-1] in MASK_WORDS]
    inside = [(NUMBERED, words[:at]) for at, word in enumerate(words) if at and word in MASK_WORDS]
    return [*found, *double, *inside]


def _owners_by_name(file: Path, files: ByWords) -> list[tuple[int, Path]]:
    """The pictures that `file` is the mask of by its name; those of exactly that stem, else of the same words.

    The word mask in front, as in "mask dancer", may tell what a photo shows.
    """
    for rank, base in _bases(file):
        if (rank == NUMBERED and is_in_colours(file)) or (rank == FRONT and _is_grey_photo(file)):
            continue
        owners = [other for other in _called(base, files) if other != file]
        exact = [other for other in owners if file.stem.casefold().startswith(other.stem.casefold())]
        if owners:
            return [(rank, owner) for owner in exact or owners]
    return []


def _names_in_front(file: Path, files: ByWords) -> bool:
    return any(rank == FRONT and _called(base, files) for rank, base in _bases(file))


def _by_words(files: Iterable[Path]) -> ByWords:
    """The files by the words of their names."""
    found: ByWords = {}
    for file in files:
        found.setdefault(words_of(file.stem), []).append(file)
    return found


def _called(base: tuple[str, ...], files: ByWords) -> list[Path]:
    """The files with the name `base`, which may have a picture's ending behind it."""
    return (files.get(base) or (files.get(base[:-1], []) if base[-1] in ENDINGS else [])) if base else []


def _is_named_as_mask(file: Path) -> bool:
    """Whether `file` calls itself a mask, although its picture is not there; a photo may be of a red mask."""
    return bool(_ALWAYS.search(file.stem)) or (bool(_bases(file)) and looks_like_mask(file))


def _controlled(file: Path, files: ByWords) -> Path | None:
    """The picture that `file` is a control map of by its name: "a_depth.png" of "a.png"."""
    words = words_of(file.stem)
    if len(words) < 2 or words[-1] not in CONTROL_WORDS:
        return None
    return next(iter(files.get(words[:-1], [])), None)


def _owner_by_words(file: Path, pictures: ByWords) -> Path | None:
    """Another picture whose name stands in that of `file`, the longest one."""
    words = words_of(file.stem)
    for length in range(len(words), 0, -1):
        for at in range(len(words) - length + 1):
            for other in pictures.get(words[at : at + length], []):
                if other != file:
                    return other
    return None


def _sort_named(
    named: Sequence[Path], whose: dict[Path, list], found: Masks, candidates: dict[Path, list[tuple[int, Path]]]
) -> None:
    for file in named:
        owners = [(rank, owner) for rank, owner in whose[file] if owner in found.pictures]
        if not owners:
            found.notes.append(
                f"{file.name} was left out; it is named as a mask, but its picture is not there; if it is a picture, "
                "give it another name"
            )
        elif is_in_colours(file):
            found.notes.append(
                f"{file.name} was left out: it is named as the mask of {owners[0][1].name}, but is in colours; save a "
                "mask in white on black, or give a picture another name"
            )
        else:
            for rank, owner in owners:
                candidates.setdefault(owner, []).append((rank, file))


def _sort_folder(folder: Path, found: Masks, candidates: dict[Path, list[tuple[int, Path]]]) -> None:
    """The masks in a folder of masks go by the names of their pictures, with or without the word mask."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURE_ENDINGS and not f.name.startswith("."))
    files = [file for file in files if file.is_file()]
    alone, coloured, itself, pictures = [], [], [], _by_words(found.pictures)
    for file in files:
        bases = [words_of(file.stem), *(base for _, base in _bases(file) if base)]
        owners = next((own for base in bases if (own := _called(base, pictures))), [])
        if any(file.samefile(picture) for picture in found.pictures):
            itself.append(file.name)
        elif not owners:
            alone.append(file.name)
        elif is_in_colours(file):
            coloured.append(file.name)
        else:
            for owner in owners:
                candidates.setdefault(owner, []).append((IN_FOLDER, file))
    if alone:
        found.notes.append(
            f"{folder.name}/{listed(alone)} {verb(alone, 'is', 'are')} not read: no picture has that name"
        )
    if itself:
        found.notes.append(
            f"{folder.name}/{listed(itself)} {verb(itself, 'is', 'are')} not read as a mask: it is a link to a picture "
            "of this folder"
        )
    if coloured:
        found.notes.append(
            f"{folder.name}/{listed(coloured)} {verb(coloured, 'is', 'are')} not read: a mask is in white on black, "
            f"and {verb(coloured, 'this is', 'these are')} in colours"
        )


def _choose(candidates: dict[Path, list[tuple[int, Path]]], found: Masks) -> None:
    """One mask for each picture: the best named one, where it is alone."""
    looked: list[str] = []
    for picture in found.pictures:
        ranked = sorted(candidates.get(picture, []), key=lambda candidate: candidate[0])
        if not ranked:
            continue
        best = [file for rank, file in ranked if rank == ranked[0][0]]
        names = [_beside(file, picture) for _, file in ranked]
        if len(best) == 1 or len({_pixels(file) for file in best}) == 1:
            found.of[picture] = best[0]
            looked += [f"{best[0].name} for {picture.name}"] * (ranked[0][0] == BY_LOOK)
            if unused := names[len(best) :]:
                found.notes.append(
                    f"{picture.name} has several masks: {names[0]} is used, {listed(unused)} "
                    f"{verb(unused, 'is', 'are')} not"
                )
        else:
            found.notes.append(
                f"{picture.name} is used without its masks: it has several ({listed(names)}); join them in one, "
                f"{picture.stem}_mask.png"
            )
    if looked:
        found.notes.append(
            f"used as {verb(looked, 'a mask', 'masks')} by name and look, in black and white alone: {listed(looked)}; "
            "a picture gets a caption of its own, NAME.txt"
        )


def _beside(file: Path, picture: Path) -> str:
    return file.name if file.parent == picture.parent else f"{file.parent.name}/{file.name}"


def _pixels(file: Path) -> bytes:
    return file.read_bytes()


def looks_like_mask(file: Path, share: float = TWO_VALUED) -> bool:
    """Whether the picture in `file` is black and white, by this share, or one colour with a shape cut out of it."""
    values, alpha = _small(file)
    if values is None:
        return False
    if alpha is not None and _is_two_valued(alpha, share) and (np.ptp(values.reshape(-1, 3), axis=0) == 0).all():
        return True
    return not _is_coloured(values) and _is_two_valued(values.max(-1), share)


def is_in_colours(file: Path) -> bool:
    """Whether the picture in `file` is neither in grey nor cut out; False where it can't be read."""
    values, alpha = _small(file)
    return values is not None and alpha is None and _is_coloured(values)


def _is_grey_photo(file: Path) -> bool:
    """Whether the picture in `file` is in greys and not black and white, as a mask is but for its edges."""
    values, alpha = _small(file)
    return (
        values is not None and alpha is None and not _is_coloured(values) and not _is_two_valued(values.max(-1), SOFT)
    )


def _is_coloured(values: np.ndarray) -> bool:
    return float((np.ptp(values, axis=-1) > GREY).mean()) > 1 - TWO_VALUED


def _is_two_valued(grey: np.ndarray, share: float) -> bool:
    dark, bright = float((grey <= DARK).mean()), float((grey >= BRIGHT).mean())
    return min(dark, bright) >= LEAST and dark + bright >= share


def _small(file: Path) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The picture's colours (height, width, 3) and transparency at most `SIDE` large; None where it can't be read."""
    try:
        with open_picture(file) as opened:
            if opened.format == "JPEG":
                opened.draft("RGB", (SIDE, SIDE))
                picture, alpha = opened.convert("RGB"), None
            else:
                picture, alpha = decode(file)
    except (FewShotError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None, None
    size = (min(SIDE, picture.width), min(SIDE, picture.height))
    small = picture.resize(size, Image.Resampling.NEAREST)
    shape = None if alpha is None else np.asarray(alpha.resize(size, Image.Resampling.NEAREST))
    return np.asarray(small).astype(np.int16), shape
