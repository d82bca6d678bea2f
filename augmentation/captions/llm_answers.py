"""Captions parsed from answers of language models: JSON in any wrapping, numbered lists, or lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

MAX_CHARACTERS = 200_000  # of an answer that are parsed
BULLET = re.compile(r"^\s*(?:[-*•]|\(?\d{1,3}[.):])\s+")
CHATTER = re.compile(r"^(?:here (?:are|is)|sure|certainly|of course|captions?)\b.*:$", re.IGNORECASE)
THINKING = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)


def captions_in(answer: str) -> dict[str, list[str]]:
    """The captions in `answer` by the picture they are for; "" stands for every picture.

    Read are {"captions": [...]}, {"0.png": [...], ...}, [...] of strings or of {"text": ...}, also inside code fences
    or between prose; where there is no such JSON, each line is a caption, without its bullet or number.
    """
    text = THINKING.sub("", answer[:MAX_CHARACTERS])
    by_picture: dict[str, list[str]] = {}
    for value in _values(text):
        for picture, captions in _captions(value):
            by_picture.setdefault(picture, []).extend(captions)
    if any(by_picture.values()):
        return by_picture
    if re.search(r'^\s*[\[{]|"captions"', text):
        return {}  # JSON that broke off: its lines are no captions
    lines = [BULLET.sub("", line).strip() for line in text.splitlines() if not line.strip().startswith("```")]
    lines = [line for line in lines if line and not CHATTER.match(line)]
    return {"": lines} if lines else {}


def _values(text: str) -> Iterator[Any]:
    """Each JSON object or array in `text` that is not inside another."""
    decoder, position = json.JSONDecoder(), 0
    while bracket := re.compile(r"[\[{]").search(text, position):
        try:
            value, position = decoder.raw_decode(text, bracket.start())
        except (ValueError, RecursionError):
            position = bracket.start() + 1
            continue
        yield value


def _captions(value: Any) -> Iterator[tuple[str, list[str]]]:
    if isinstance(value, dict) and "captions" in value:
        value = value["captions"]
    if isinstance(value, list):
        yield "", [text for entry in value if (text := _text(entry))]
    elif isinstance(value, dict):
        for picture, entries in value.items():
            if isinstance(entries, list):
                yield str(picture), [text for entry in entries if (text := _text(entry))]


def _text(entry: Any) -> str:
    if isinstance(entry, dict):
        entry = entry.get("text", entry.get("caption"))
    return entry.strip() if isinstance(entry, str) else ""
