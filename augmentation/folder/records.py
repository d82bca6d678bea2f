"""Captions in tables and records: what the files of other trainers and of data sets say of which picture."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError

TABLE_ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
LARGEST = 64_000_000  # bytes
NUMBER = (int, float, str)  # of a picture in COCO's tables
CAPTION_FIELDS = (
    "caption", "captions", "text", "texts", "prompt", "prompts", "description", "sentence", "sentences", "long_caption",
    "caption_long", "short_caption", "caption_short", "additional_feature",
)  # fmt: skip
CAPTION_WORDS = ("caption", "prompt", "text", "description")  # in names such as blip_caption
TAG_FIELDS = ("tags", "tag_string", "tag_string_general", "tag", "keywords")
FILE_FIELDS = (
    "file_name", "filename", "file", "image_file", "image_path", "image", "img", "img_path", "path", "file_path",
    "filepath", "media_path", "name", "image_name", "imagename", "key", "id",
)  # fmt: skip
FORMS_WITHOUT_CAPTIONS = {
    "shapes": "LabelMe's shapes", "segmentations": "outlines", "annotations": "boxes or outlines as COCO's",
    "nodes": "a graph of ComfyUI", "boxes": "boxes", "objects": "boxes",
}  # fmt: skip


ODD = (TypeError, KeyError, AttributeError, IndexError, RecursionError)  # what values of unexpected kinds lead to


class NotRead(FewShotError):
    """A file whose form is not known; the message says what it holds."""


@dataclass(frozen=True)
class Entry:
    """What a table says of one picture: its name there, and one caption or several."""

    name: str
    captions: tuple[str, ...]


def parsed_json(text: str) -> Any:
    """The value of `text`. Raises NotRead where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotRead(f"it is no JSON ({error})") from None


def record_captions(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions in a record; kohya's tags are joined to its caption. Empty where it has none."""
    fields = _fields(record)
    others = [name for name in fields if "negative" not in name and any(word in name for word in CAPTION_WORDS)]
    captions = next((found for name in (*CAPTION_FIELDS, *others) if (found := _texts(fields.get(name)))), ())
    tags = next((found for name in TAG_FIELDS if (found := _tags(name, fields.get(name)))), "")
    if captions and tags and tags not in captions:
        return tuple(f"{caption}, {tags}" for caption in captions)
    return captions or ((tags,) if tags else ())


def _fields(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The record by the names of its fields in one spelling: "Image Name" is image_name."""
    return {re.sub(r"[\s-]+", "_", str(name).strip().casefold()): value for name, value in record.items() if name}


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value.strip(),) if value.strip() else ()
    if isinstance(value, (list, tuple)):
        return tuple(text.strip() for text in value if isinstance(text, str) and text.strip())
    return ()


def _tags(name: str, value: Any) -> str:
    """Tags as text: a list, scores by tag, or danbooru's words with spaces between them."""
    if isinstance(value, Mapping):
        value = list(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_texts(value))
    text = value.strip() if isinstance(value, str) else ""
    if name.startswith("tag_string") and "," not in text:
        return ", ".join(tag.replace("_", " ") for tag in text.split())
    return text


def why_without_captions(value: Any) -> str:
    """What a JSON file holds that has no caption in it."""
    if isinstance(value, Mapping):
        form = next((words for name, words in FORMS_WITHOUT_CAPTIONS.items() if name in value), "")
        fields = ", ".join(str(name)[:30] for name in list(value)[:6])
        return f"it holds {form}, no captions" if form else f"none of its fields ({fields}) is a caption or a picture"
    return "it holds no captions by the names of pictures"


def entries_of(file: Path, text: str, is_picture: Callable[[str], bool]) -> list[Entry]:
    """The captions by picture in the table `file` with the contents `text`.

    `is_picture` says whether a name is one of a picture in the folder. Raises NotRead, which says what it holds.
    """
    try:
        return _entries(file.suffix.lower(), text, is_picture)
    except ODD as error:
        raise odd_values(error) from None


def odd_values(error: Exception) -> NotRead:
    """For a record whose values are of kinds that no known form has."""
    return NotRead(f"it holds values of kinds that are not expected ({type(error).__name__}: {error})")


def _entries(ending: str, text: str, is_picture: Callable[[str], bool]) -> list[Entry]:
    if ending == ".json":
        return _json_entries(parsed_json(text), is_picture)
    if ending in (".jsonl", ".ndjson"):
        return _record_entries([_line(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()])
    if ending in (".csv", ".tsv"):
        return _separated(text, "\t" if ending == ".tsv" else None, is_picture)
    return _lines(text, is_picture)


def _line(number: int, line: str) -> Any:
    try:
        return parsed_json(line)
    except NotRead as error:
        raise NotRead(f"line {number}: {error}") from None


def _json_entries(value: Any, is_picture: Callable[[str], bool]) -> list[Entry]:
    if isinstance(value, list):
        return _record_entries(value)
    if not isinstance(value, Mapping):
        raise NotRead(why_without_captions(value))
    if coco := _coco(value):
        return coco
    entries = []
    for name, about in value.items():
        texts = record_captions(about) if isinstance(about, Mapping) else _texts(about)
        if texts and (is_picture(name) or isinstance(about, Mapping) or Path(name).suffix):
            entries.append(Entry(name, texts))
    if any(is_picture(entry.name) for entry in entries):
        return entries
    for inner in value.values():
        if isinstance(inner, (list, Mapping)) and inner:
            try:
                return _json_entries(inner, is_picture)
            except NotRead:
                continue
    if entries and not record_captions(value):
        return entries
    raise NotRead(why_without_captions(value))


def _coco(value: Mapping[str, Any]) -> list[Entry]:
    """COCO's captions: names by the number of a picture, and captions by that number."""
    images, notes = value.get("images"), value.get("annotations")
    if not isinstance(images, list) or not isinstance(notes, list):
        return []
    pictures = [record for record in images if isinstance(record, Mapping) and isinstance(record.get("id"), NUMBER)]
    names = {record["id"]: str(record.get("file_name", "")) for record in pictures}
    captions: dict[str, list[str]] = {}
    for record in notes:
        if not isinstance(record, Mapping) or not isinstance(record.get("image_id"), NUMBER):
            continue
        if texts := _texts(record.get("caption")):
            captions.setdefault(names.get(record["image_id"], ""), []).extend(texts)
    return [Entry(name, tuple(texts)) for name, texts in captions.items() if name]


def _record_entries(records: Iterable[Any]) -> list[Entry]:
    entries, fields = [], ""
    for record in records:
        if not isinstance(record, Mapping):
            continue
        fields = fields or ", ".join(str(name)[:30] for name in list(record)[:8])
        low = _fields(record)
        name = next((low[field] for field in FILE_FIELDS if isinstance(low.get(field), str) and low[field]), "")
        captions = record_captions(record)
        if name and captions:
            entries.append(Entry(name, captions))
    if not entries:
        raise NotRead(
            f"it needs fields such as file_name and text; its fields are {fields}" if fields else "it is empty"
        )
    return entries


def _separated(text: str, separator: str | None, is_picture: Callable[[str], bool]) -> list[Entry]:
    """A table with a line of names of its fields, or with the picture's name in the first column."""
    first = text.lstrip().split("\n", 1)[0]
    separator = separator or max(",;\t|", key=first.count)
    try:
        rows = _rows(text, separator, is_picture)
    except csv.Error as error:
        raise NotRead(f"it is no table ({error})") from None
    if rows and is_picture(rows[0][0]):
        return _two_columns(rows, separator)
    if not rows:
        raise NotRead("it is empty")
    head = rows[0]
    joined = [[*row[: len(head) - 1], separator.join(row[len(head) - 1 :])] for row in rows[1:]]
    records = [dict(zip(head, row, strict=False)) for row in joined]
    return _record_entries(records or [dict.fromkeys(head)])


def _rows(text: str, separator: str, is_picture: Callable[[str], bool]) -> list[list[str]]:
    """The rows of a table. Raises NotRead where a quote that is not closed swallows rows."""
    is_open = text.count('"') % 2 == 1
    before = text[: len(text) - len(text.lstrip())].count("\n")
    reader, rows, line = csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator), [], 1
    for row in reader:
        inside = [
            cell.strip(' "') for field in row for part in field.splitlines()[1:] for cell in part.split(separator)
        ]
        if any(is_picture(cell) and (is_open or Path(cell).suffix) for cell in inside):
            raise NotRead(
                f"it is damaged: a quote in line {before + line} is not closed and swallows the lines after it"
            )
        line = reader.line_num + 1
        if any(row):
            rows.append(row)
    return rows


def _two_columns(rows: list[list[str]], separator: str) -> list[Entry]:
    entries = [Entry(row[0], (separator.join(row[1:]).strip(),)) for row in rows if len(row) > 1]
    return [entry for entry in entries if entry.captions[0]]


def _lines(text: str, is_picture: Callable[[str], bool]) -> list[Entry]:
    """Lines such as "a.png: a dog" or "a.png<tab>a dog"."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if re.match(r"[^\s,;\t|]+[,;\t|]", first):
        try:
            return _separated(text, None, is_picture)
        except NotRead:
            pass
    entries = []
    for line in text.splitlines():
        parts = re.match(r"\s*(.+?\.\w{3,4})\s*(?:[\t|,;:=]|\s-\s)\s*(.+?)\s*$", line)
        if parts and is_picture(parts[1]):
            entries.append(Entry(parts[1], (parts[2],)))
    if not entries:
        raise NotRead("there is no picture of that name, and its lines name none")
    return entries
