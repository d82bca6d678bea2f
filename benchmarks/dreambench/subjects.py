"""The subjects of a folder: a folder of pictures each, and what each of them is.

DreamBench (github.com/google/dreambooth, dataset/) has prompts_and_classes.txt beside the folders, with the lines
"subject_name,class", "backpack,backpack", "bear_plushie,stuffed animal", ...
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...augmentation.captions.nouns import kind_of
from ...core.errors import FewShotError
from ...core.images import PICTURE_ENDINGS
from ...core.text.decoding import read_text
from ...evaluation.prompts.lists import BEINGS, OBJECTS, REFINING
from ...evaluation.prompts.sets import lines_of

log = logging.getLogger(__name__)
HEADER = ("subject_name", "class")
LIVE, OBJECT = "live", "object"
LIVE_KINDS = ("animal", "person")  # of `kind_of`; "toy" in a noun makes an object of it: "toy bear"
REFINED_BY_KIND = {"toy": "toy", "vessel": "vessel", "vehicle": "vehicle"}
TWO_OF_A_KIND = ("glasses", "sunglasses")  # no vessels, as "glass" is
# What Refine LoRA learns with of objects that have no list of their own: places and company, none of the 25 prompts'.
OBJECT_ACTIVITIES = (
    "with a church in the background", "on top of a blue sofa", "in a shop window", "on a stack of books",
    "on a picnic blanket", "in the rain", "on a windowsill", "next to a teapot", "under a street lamp", "in a garage",
    "in a museum", "covered in leaves", "on a bridge", "at a birthday party", "under a christmas tree", "in a desert",
    "with a bird sitting on it", "with a ribbon tied around it", "carried by a monkey", "in a rowing boat",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkSubject:
    """A subject: its name, the folder of its pictures, its class noun, and whether it lives."""

    name: str
    folder: Path
    noun: str
    live: bool

    @property
    def lines(self) -> tuple[str, ...]:
        """The benchmark's 25 prompts, with {trigger} for the subject."""
        return lines_of(BEINGS if self.live else OBJECTS)

    @property
    def activities(self) -> tuple[str, ...]:
        """What Refine LoRA learns with; disjoint from `lines`."""
        if self.live:
            return REFINING["live"]
        words = self.noun.lower().split()
        kind = "toy" if {"toy", "stuffed", "plush"} & set(words) else kind_of(self.noun)
        kind = "" if words[-1] in TWO_OF_A_KIND else kind
        return REFINING[REFINED_BY_KIND[kind]] if kind in REFINED_BY_KIND else OBJECT_ACTIVITIES


def read_subjects(folder: Path, most: int = 0) -> list[BenchmarkSubject]:
    """The subjects in `folder`, by name; `most` of them evenly spread, 0 for all.

    Raises:
        FewShotError: there is none, or the class of one is not known.
    """
    folders = [child for child in sorted(folder.iterdir()) if child.is_dir() and _has_pictures(child)]
    if not folders:
        inside = "the pictures themselves" if _has_pictures(folder) else "no folder with pictures"
        raise FewShotError(
            f"{folder} holds {inside}: give the folder that holds a folder of pictures for each subject, as "
            "DreamBench's dataset/ does"
        )
    table = read_classes(folder)
    classes = {child.name: _own_class(child) or table.get(child.name, "") for child in folders}
    if unknown := [name for name, noun in classes.items() if not noun]:
        raise FewShotError(
            f"what is {', '.join(unknown)}? Write the class noun, such as dog, into "
            f"{_own_file(folder / unknown[0])}, or a line {unknown[0]},dog into {folder / 'classes.csv'} below the "
            f"header {','.join(HEADER)}"
        )
    subjects = [_subject(child, classes[child.name]) for child in folders]
    return spread(subjects, most or len(subjects))


def _has_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in PICTURE_ENDINGS for path in folder.iterdir() if path.is_file())


def _own_file(folder: Path) -> Path:
    """Where a subject's class noun may stand, and after a comma "live" or "object": beside its folder, as files in it
    are captions."""
    return folder.with_name(f"{folder.name}.txt")


def _own_class(folder: Path) -> str:
    file = _own_file(folder)
    lines = _lines(file) if file.is_file() else []
    return lines[0] if lines else ""


def read_classes(folder: Path) -> Mapping[str, str]:
    """The classes by subject of all tables in `folder`: the lines below the header up to the first that has no comma.

    A third column may say live or object.
    """
    found: dict[str, str] = {}
    for file in sorted([*folder.glob("*.txt"), *folder.glob("*.csv")]):
        lines = _lines(file)
        starts = [number for number, line in enumerate(lines) if _cells(line)[:2] == list(HEADER)]
        for line in lines[starts[0] + 1 :] if starts else []:
            cells = _cells(line)
            if len(cells) < 2:
                break
            found.setdefault(cells[0], ",".join(cells[1:3]))
    return found


def _lines(file: Path) -> list[str]:
    """Lines that are not empty."""
    return [line.strip() for line in read_text(file).text.splitlines() if line.strip()]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line]), [])]


def _subject(folder: Path, written: str) -> BenchmarkSubject:
    """The subject of a folder by what is written of its class: "dog", or "dog, live"."""
    cells = _cells(written)
    noun, kind = cells[0], cells[1].lower() if len(cells) > 1 else ""
    if kind not in ("", LIVE, OBJECT):
        raise FewShotError(
            f"the class of {folder.name} is {written!r}; write the noun, and after it {LIVE} or {OBJECT}"
        )
    words = noun.lower().split()
    lives = kind_of(noun) in LIVE_KINDS and not {"toy", "stuffed", "plush"} & set(words)
    return BenchmarkSubject(folder.name, folder, noun, kind == LIVE if kind else lives)


def spread(things: Sequence, most: int) -> list:
    """`most` of the things at even distances, the first among them."""
    count = min(most, len(things))
    return [things[number * len(things) // count] for number in range(count)]
