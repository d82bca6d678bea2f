"""The captions of the pictures of a folder: from files beside them, and from tables for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...core.images import PICTURE_ENDINGS
from ...core.text.decoding import read_text
from .names import listed, plain_name, verb
from .records import (
    LARGEST,
    ODD,
    TABLE_ENDINGS,
    NotRead,
    entries_of,
    odd_values,
    parsed_json,
    record_captions,
    why_without_captions,
)  # fmt: skip

TEXT_ENDINGS = (".txt", ".caption", ".captions", ".cap", ".tags", ".tag", ".prompt", ".text", ".wd14")
BESIDE_ENDINGS = (*TEXT_ENDINGS, ".json")
CAPTION_FOLDERS = {"captions", "caption", "texts", "text", "txt", "tags", "prompts"}
ABOVE = ("metadata.jsonl", "metadata.csv")  # of data sets, whose pictures may lie in folders beside them
# What some programs write behind the picture's name: "a_caption.txt".
ADDED = ("_caption", "-caption", "_captions", "_tags", "-tags", "_prompt", "_text")


@dataclass(frozen=True)
class Caption:
    """What is written of a picture: the lines of its file, or the captions of a list of them. `source` is the file."""

    lines: tuple[str, ...] = ()
    source: str = ""
    is_list: bool = False

    @property
    def text(self) -> str:
        """One caption: the lines of a file are one, of a list of captions the first is taken."""
        return " ".join(" ".join(self.lines[:1] if self.is_list else self.lines).split())


@dataclass
class Captions:
    """Captions by picture, the files that they are from, and what is to be said. `usual` is the encoding of those that
    do not name theirs."""

    usual: str = ""
    of: dict[Path, list[Caption]] = field(default_factory=dict)
    used: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    read_as: dict[str, list[str]] = field(default_factory=dict)
    not_read: dict[str, list[str]] = field(default_factory=dict)

    def add(self, picture: Path, caption: Caption) -> None:
        self.of.setdefault(picture, []).append(caption)

    def best(self, picture: Path, first: str = "") -> Caption:
        """The picture's caption: that of the file `first`, else beside the picture, else of a table."""
        written = [caption for caption in self.of.get(picture, []) if caption.text]
        written.sort(key=lambda caption: caption.source != first)
        others = [c.source for c in written[1:] if c.text != written[0].text]
        if others:
            self.notes.append(
                f"{picture.name} is captioned by {written[0].source}; {listed(others)} "
                f"{verb(others, 'says', 'say')} something else and {verb(others, 'is', 'are')} not used for it"
            )
        return written[0] if written else Caption()

    def all_notes(self) -> list[str]:
        """All that is to be said, files of one reason together."""
        unread = [f"{listed(names)} {verb(names, 'is', 'are')} not read: {why}" for why, names in self.not_read.items()]
        found = [
            f"{listed(names)}: {note}; look at what came of it, and save {verb(names, 'it', 'them')} as UTF-8"
            for note, names in self.read_as.items()
        ]
        return [*self.notes, *unread, *found]

    @contextmanager
    def reading(self, file: Path, as_what: str = "") -> Iterator[None]:
        """`file` is used here; an error inside becomes what is to be said: why it is not read."""
        self.used.add(file)
        try:
            yield
        except NotRead as error:
            self.leave(file, str(error))
        except FewShotError as error:
            self.notes.append(f"{error}; it is not read{as_what}")

    def leave(self, file: Path, why: str) -> None:
        """`file` is not read, because of `why`."""
        names = self.not_read.setdefault(why, [])
        if file.name not in names:
            names.append(file.name)


def is_caption_folder(folder: Path) -> bool:
    return plain_name(folder.name) in CAPTION_FOLDERS


def read_beside(pictures: Sequence[Path], files: Sequence[Path], found: Captions) -> None:
    """Add what the text files `files` say of the picture of their name, the usual names first.

    Read are `a.txt` and `a.caption` and their like, in any case, also after the picture's ending (`a.png.txt`) and
    doubled (`a.txt.txt`), and records in `a.json`.
    """
    by_key: dict[str, list[Path]] = {}
    for file in sorted((f for f in files if f.suffix.lower() in BESIDE_ENDINGS), key=_rank):
        by_key.setdefault(_key(file.name), []).append(file)
    stems = {plain_name(picture.stem) for picture in pictures}
    exact = {picture.stem for picture in pictures}
    for picture in pictures:
        stem = plain_name(picture.stem)
        keys = [plain_name(picture.name), stem, *(stem + added for added in ADDED if stem + added not in stems)]
        keys += [stem + ending for ending in PICTURE_ENDINGS]  # "a.png.txt" beside "a.jpg", which was saved anew
        beside = [file for key in dict.fromkeys(keys) for file in by_key.get(key, [])]
        beside = [file for file in beside if file.stem == picture.stem or file.stem not in exact]
        for file in sorted(beside, key=lambda file: (file.stem != picture.stem, _rank(file))):
            _read_one(file, picture, found)


def _rank(file: Path) -> tuple[int, int, str]:
    return BESIDE_ENDINGS.index(file.suffix.lower()), len(file.name), file.name


def _key(name: str) -> str:
    """A caption file's name without its endings, of which "a.txt.txt" has two."""
    name = plain_name(name)
    while name.endswith(BESIDE_ENDINGS):
        name = name.rpartition(".")[0]
    return name


def _read_one(file: Path, picture: Path, found: Captions) -> None:
    with found.reading(file, f" as the caption of {picture.name}"):
        lines, is_list = _caption_lines(file, _text_of(file, found))
        if not lines:
            raise NotRead("it is empty")
        if not any(char.isalpha() for line in lines for char in line):
            raise NotRead("a caption has words, and it holds none")
        found.add(picture, Caption(lines, file.name, is_list))


def _text_of(file: Path, found: Captions, most: int = 4_000_000) -> str:
    decoded = read_text(file, most, found.usual)
    if decoded.note and file.name not in found.read_as.get(decoded.note, []):
        found.read_as.setdefault(decoded.note, []).append(file.name)
    return decoded.text


def _caption_lines(file: Path, text: str) -> tuple[tuple[str, ...], bool]:
    if file.suffix.lower() == ".json":
        return _of_json(parsed_json(text)), True
    if text.lstrip().startswith("{"):  # a record under another ending
        try:
            return _of_json(parsed_json(text)), True
        except NotRead:
            pass
    return tuple(line.strip() for line in text.splitlines() if line.strip()), False


def _of_json(value: Any) -> tuple[str, ...]:
    try:
        return _json_captions(value)
    except ODD as error:
        raise odd_values(error) from None


def _json_captions(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
        return tuple(text.strip() for text in value if text.strip())
    captions = record_captions(value) if isinstance(value, Mapping) else ()
    if not captions:
        raise NotRead(why_without_captions(value))
    return captions


def read_tables(pictures: Sequence[Path], files: Sequence[Path], found: Captions) -> None:
    """Add what the tables among `files` say of pictures: JSON, JSON lines, CSV, and lists of names in a .txt."""
    whose = _by_name(pictures)
    for file in sorted(files, key=_table_rank):
        if file.suffix.lower() not in TABLE_ENDINGS or file in found.used:
            continue
        with found.reading(file):
            entries = entries_of(file, _text_of(file, found, LARGEST), lambda name: bool(whose(name)))
            _add_entries(file, [(entry.name, entry.captions, whose(entry.name)) for entry in entries], found)


def read_tables_above(pictures: Sequence[Path], folder: Path, found: Captions) -> None:
    """Add what a table beside the folder itself says of the pictures in it, by names such as "folder/a.png"."""
    whose = _by_name(pictures)

    def named(name: str) -> list[Path]:
        parts = _parts(name)
        return [p for p in whose(name) if len(parts) > 1 and plain_name(p.parent.name) == parts[-2]]

    for file in (folder.parent / name for name in ABOVE):
        if not file.is_file():
            continue
        try:
            text = read_text(file, LARGEST, found.usual).text
            entries = entries_of(file, text, lambda name: bool(named(name))) if folder.name in text else []
        except FewShotError as error:
            found.notes.append(f"{file.name} beside the folder {folder.name} is not read: {error}")
            continue
        mine = [(entry.name, entry.captions, owners) for entry in entries if (owners := named(entry.name))]
        _add_entries(file, mine, found)


def _by_name(pictures: Sequence[Path]) -> Callable[[str], list[Path]]:
    """What finds the pictures that a table's name means: those in the folder that it names, where there is one."""
    by_name: dict[str, list[Path]] = {}
    for picture in pictures:
        for name in {plain_name(picture.name), plain_name(picture.stem)}:
            by_name.setdefault(name, []).append(picture)

    def whose(name: str) -> list[Path]:
        parts = _parts(name)
        last = parts[-1]
        same = by_name.get(last) or (by_name.get(last.rpartition(".")[0], []) if last.endswith(PICTURE_ENDINGS) else [])
        return [p for p in same if len(parts) > 1 and plain_name(p.parent.name) == parts[-2]] or same

    return whose


def _parts(name: str) -> list[str]:
    return [plain_name(part) for part in str(name).replace("\\", "/").split("/")]


def _table_rank(file: Path) -> tuple[int, str]:
    return TABLE_ENDINGS.index(file.suffix.lower()) if file.suffix.lower() in TABLE_ENDINGS else 99, file.name


def _add_entries(file: Path, entries: Sequence[tuple[str, tuple[str, ...], list[Path]]], found: Captions) -> None:
    captions: dict[Path, list[str]] = {}
    for _, texts, owners in entries:
        for owner in owners:
            captions.setdefault(owner, []).extend(text for text in texts if text not in captions.get(owner, []))
    for picture, texts in captions.items():
        found.add(picture, Caption(tuple(texts), file.name, is_list=True))
    alone = list(dict.fromkeys(name for name, _, owners in entries if not owners))
    if alone:
        found.notes.append(
            f"{file.name} names {verb(alone, 'a picture that is', 'pictures that are')} not here: {listed(alone)}"
        )
