"""A picture folder read: each picture with its mask, caption and weight, and a note on every file that is not used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import FewShotError
from ...core.images import PICTURE_ENDINGS
from ...core.text.decoding import usual_encoding
from .captions import BESIDE_ENDINGS, Caption, Captions, is_caption_folder, read_beside, read_tables, read_tables_above
from .masks import Masks, find_masks, is_mask_folder
from .names import natural_order
from .records import TABLE_ENDINGS
from .rest import MOST_REPEATS, REPEATS, left_folder_note, rest_note, where_pictures_lie

__all__ = ["PictureFile", "picture_files"]

LONGEST = 300  # letters of a path in a message


@dataclass(frozen=True)
class PictureFile:
    """A picture in a folder, its mask's file, the weight of its samples, and what is written of it."""

    path: Path
    mask: Path | None
    weight: float
    caption: Caption = Caption()


@dataclass(frozen=True)
class _Listing:
    """What lies directly in a folder, by what it is for, in the order of names."""

    folder: Path
    weight: float
    pictures: list[Path]
    texts: list[Path]
    rest: list[Path]
    masks: list[Path]
    captions: list[Path]
    folders: list[Path]


def picture_files(folder: Path, notes: list[str], first_captions: str = "") -> list[PictureFile]:
    """The pictures of `folder` and of its `N_name` folders (kohya's, N is the weight), in the order of their names.

    Masks and captions are found by all names that are usual; what is not used is said in `notes`.

    Args:
        first_captions: the name of a table whose captions come before those of files beside the pictures.

    Raises FewShotError: no such folder, or no pictures in it; the message says where pictures lie instead.
    """
    if not _is_folder(folder):
        raise FewShotError(f"there is no folder {str(folder)[:LONGEST]}; choose one that holds your pictures")
    top = _list(folder, 1.0)
    folder_notes: list[str] = []
    places = [top, *_repeated(top, folder_notes)]
    if not any(place.pictures for place in places):
        raise FewShotError(_no_pictures(top))
    captions = Captions(usual_encoding(file for place in places for file in place.texts))
    found = [_read(place, captions, notes) for place in places]
    for place, masks in zip(places[1:], found[1:], strict=True):
        read_tables(masks.pictures, place.texts, captions)
    every = [picture for masks in found for picture in masks.pictures]
    read_tables(every, top.texts, captions)
    read_tables_above(every, folder, captions)
    files = [
        PictureFile(picture, masks.of.get(picture), place.weight, captions.best(picture, first_captions))
        for place, masks in zip(places, found, strict=True)
        for picture in masks.pictures
    ]
    notes += folder_notes + captions.all_notes()
    notes += [note for place in places if (note := rest_note(place.rest))]
    return files


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a path too long for the system
        return False


def _no_pictures(top: _Listing) -> str:
    where = where_pictures_lie(top.folder)
    parts = [
        f"there are no pictures in {top.folder} itself",
        where or f"put some there ({', '.join(PICTURE_ENDINGS[:6])})",
    ]
    if top.masks and where:
        parts.append(f"masks go into the folder of their pictures, as NAME_mask.png or in a folder {top.masks[0].name}")
    return "; ".join([*parts, *filter(None, [rest_note(top.rest)])])


def _list(folder: Path, weight: float) -> _Listing:
    files, folders = [], []
    try:
        entries = sorted(folder.iterdir(), key=natural_order)
    except OSError as error:
        raise FewShotError(f"the folder {folder} cannot be read ({error.strerror}); look at its permissions") from None
    for entry in entries:
        (folders if entry.is_dir() else files).append(entry)
    seen = [file for file in files if file.is_file() and not file.name.startswith(".")]
    pictures = [file for file in seen if file.suffix.lower() in PICTURE_ENDINGS]
    texts = [file for file in seen if file.suffix.lower() in (*BESIDE_ENDINGS, *TABLE_ENDINGS)]
    used = {*pictures, *texts}
    folders = [entry for entry in folders if not entry.name.startswith(".")]
    masks = [entry for entry in folders if is_mask_folder(entry)]
    captions = [entry for entry in folders if is_caption_folder(entry)]
    others = [entry for entry in folders if entry not in masks and entry not in captions]
    inside = [file for entry in masks for file in sorted(entry.iterdir()) if not file.is_dir()]
    inside = [file for file in inside if file.suffix.lower() not in PICTURE_ENDINGS or not file.is_file()]
    rest = [file for file in [*files, *inside] if file not in used]
    return _Listing(folder, weight, pictures, texts, rest, masks, captions, others)


def _repeated(top: _Listing, notes: list[str]) -> list[_Listing]:
    """The `N_name` folders; all others are named."""
    found = []
    for child in top.folders:
        repeats = REPEATS.fullmatch(child.name)
        if repeats is None:
            notes.append(left_folder_note(child, top.folder))
        elif int(repeats[1]) == 0:
            notes.append(f"folder {child.name} was left out; it asks for 0 repeats")
        else:
            many = int(repeats[1]) > MOST_REPEATS
            if many:
                notes.append(
                    f"folder {child.name} counts once: {repeats[1]} is taken for no number of repeats, which are at "
                    f"most {MOST_REPEATS}"
                )
            found.append(_list(child, 1.0 if many else float(repeats[1])))
            notes += [left_folder_note(inner, top.folder) for inner in found[-1].folders]
    return found


def _read(place: _Listing, captions: Captions, notes: list[str]) -> Masks:
    """The pictures of a folder with their masks; captions beside them go to `captions`."""
    in_folders = [file for folder in place.captions for file in sorted(folder.iterdir()) if file.is_file()]
    texts = [*place.texts, *(file for file in in_folders if file.suffix.lower() in BESIDE_ENDINGS)]
    captioned = _captioned(place.pictures, place.texts)
    masks = find_masks(place.pictures, place.masks, captioned)
    read_beside(masks.pictures, texts, captions)
    for file in in_folders:
        if file not in captions.used and not file.name.startswith("."):
            captions.leave(file, "no picture has its name")
    notes += masks.notes
    return masks


def _captioned(pictures: Sequence[Path], texts: Sequence[Path]) -> set[Path]:
    """The pictures beside which a caption file of exactly their name lies."""
    stems = {file.stem for file in texts if file.suffix.lower() in BESIDE_ENDINGS and file.stat().st_size}
    return {picture for picture in pictures if picture.stem in stems or picture.name in stems}
