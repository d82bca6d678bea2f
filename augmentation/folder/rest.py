"""What is left of a folder: named shortly by kind, with where pictures lie when there are none."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ...core.images import PICTURE_ENDINGS
from ...core.values import Concept
from .masks import is_mask_folder
from .names import counted, listed, natural_order, words_of

REPEATS = re.compile(r"(\d+)_(.+)")
MOST_REPEATS = 1000  # a larger number is a date or a count
NO_FILE = "file of no usual kind: a pipe, a device or a broken link"
CLASS_WORDS = {"reg", "regs", "regularization", "regularisation", "class", "prior", "priors"}
DEEPEST = 4  # folders in folders that are looked through for pictures
KINDS = {
    "video": ".mp4 .mov .avi .mkv .webm .m4v .mpg .mpeg .wmv .flv",
    "layered picture": ".psd .psb .kra .xcf .clip .procreate .ai .ora",
    "raw photo": ".dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw",
    "picture in another form (save it as PNG)": ".tga .svg .jp2 .j2k .jxl .exr .hdr .pgm .ppm .pbm .pcx .ico .dds",
    "archive": ".zip .rar .7z .tar .gz .tgz",
    "cache of a trainer": ".npz .npy .pt .pth .safetensors .cache .latent .bin",
    "table in another form (save it as CSV)": ".parquet .arrow .xlsx .xls .ods .sqlite .db",
    "record of shapes": ".xml",
    "document": ".md .docx .doc .pdf .rtf .odt .html .htm .log",
    "settings": ".toml .yaml .yml .ini .cfg",
}
SYSTEM = {"thumbs.db", "desktop.ini", ".ds_store", "ehthumbs.db", "icon\r", "folder.jpg.db"}
_KIND_OF = {ending: kind for kind, endings in KINDS.items() for ending in endings.split()}


def rest_note(files: Sequence[Path]) -> str:
    """One line on files that are neither pictures nor captions; "" without any."""
    by_kind: dict[str, list[str]] = {}
    for file in files:
        hidden = file.name.lower() in SYSTEM or file.name.startswith(".")
        kind = "hidden file" if hidden else _KIND_OF.get(file.suffix.lower(), "other file")
        kind = kind if file.is_file() else NO_FILE
        by_kind.setdefault(kind, []).append(file.name)
    parts = [f"{_kind(len(names), kind)} ({listed(names)})" for kind, names in by_kind.items()]
    return f"not read: {', '.join(parts)}" if parts else ""


def _kind(count: int, kind: str) -> str:
    """ "2 videos", "1 settings file", "3 tables in another form"."""
    if kind == "settings":
        return counted(count, "file") + " of settings"
    head, space, tail = kind.partition(" in ") if " in " in kind else kind.partition(" of ")
    return counted(count, head) + space + tail


def pictures_below(folder: Path) -> dict[Path, int]:
    """How many pictures each folder below `folder` holds itself, folders of masks left out, in their order."""
    found: dict[Path, int] = {}
    for root, names, files in os.walk(folder):
        place = Path(root)
        depth = len(place.relative_to(folder).parts)
        inner = [place / name for name in names if not name.startswith(".")] if depth < DEEPEST else []
        names[:] = [child.name for child in sorted(inner, key=natural_order) if not is_mask_folder(child)]
        count = sum(Path(name).suffix.lower() in PICTURE_ENDINGS and not name.startswith(".") for name in files)
        if count and place != folder:
            found[place] = count
    return found


def holds_class_pictures(folder: Path, top: Path) -> bool:
    """Whether `folder` lies in one of kohya's folders of class pictures."""
    return any(CLASS_WORDS & set(words_of(part)) for part in folder.relative_to(top.parent).parts)


def left_folder_note(folder: Path, top: Path) -> str:
    """Why a folder in the chosen one, `top`, is not read, with the pictures in it."""
    inside = pictures_below(folder)
    count = sum(inside.values()) + sum(
        f.suffix.lower() in PICTURE_ENDINGS and not f.name.startswith(".") for f in folder.iterdir()
    )
    holds = f"it holds {counted(count, 'picture')}; " if count else "it holds no pictures; "
    name = folder.relative_to(top).as_posix()
    if count and CLASS_WORDS & set(words_of(folder.name)):
        return (
            f"folder {name} was left out: by its name it holds pictures of the class, which Generate Priors draws here"
        )
    return f"folder {name} was left out: {holds}only folders named as 10_name are read"


def where_pictures_lie(folder: Path) -> str:
    """For a folder without pictures: where they lie instead, and how to use several such folders; "" without any."""
    below = pictures_below(folder)
    if not below:
        return ""
    names = {place: place.relative_to(folder).as_posix() for place in below}
    subjects = [place for place in below if not holds_class_pictures(place, folder)]
    classes = [place for place in below if place not in subjects]
    parts = []
    if subjects:
        parts.append(
            f"pictures lie in {listed(f'{names[p]} ({below[p]})' for p in subjects)}: choose "
            + ("that folder" if len(subjects) == 1 else "one of them")
        )
        hints = [f'{names[p]} with "{found[2]}" as identifier and noun' for p in subjects if (found := _kohya(p))]
        parts += [f"kohya's names say {listed(hints)}"] if hints else []
    if len(subjects) > 1:
        parts.append("for several subjects use a pictures node for each, joined by Combine Sets")
    if classes:
        parts.append(
            f"{listed(f'{names[p]} ({below[p]})' for p in classes)} holds pictures of the class, which Generate Priors "
            "draws here"
        )
    return "; ".join(parts)


def named_otherwise(top: Path, folders: Sequence[Path], concept: Concept) -> list[str]:
    """For folders whose names say that their pictures are others than what they are taught as."""
    if any(CLASS_WORDS & set(words_of(place.name)) for place in (top, top.parent)):
        return [
            f"by its name {top.parent.name}/{top.name} holds pictures of the class, not of the subject; here they are "
            f'taught as "{concept.phrase}"'
        ]
    notes, own = [], set(words_of(concept.identifier))
    for folder in dict.fromkeys(folders):
        named = _kohya(folder)
        if named is None or (folder == top and " " not in named[2]):
            continue
        words = set(words_of(named[2]))
        wanted = own if any(own & set(words_of(other.name)) for other in folders) else {*own, *words_of(concept.noun)}
        if not words & wanted:
            notes.append(
                f'folder {folder.name} is named for "{named[2]}", and its pictures are taught as "{concept.phrase}"; '
                "another subject takes a Subject Pictures of its own, joined by Combine Sets"
            )
    return notes


def _kohya(folder: Path) -> re.Match | None:
    return REPEATS.fullmatch(folder.name)
