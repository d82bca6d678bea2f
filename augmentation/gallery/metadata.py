"""Prompts in pictures' metadata, as ComfyUI, A1111 and other programs write them into PNG, WebP and JPEG files.

A prompt is given only where what the metadata mean is known; else there is none, and the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ...core.errors import FewShotError
from ...core.images import open_picture
from ...core.text.words import check_letters
from .formats import NAMES, read_other
from .graphs.read import read_comfy
from .prompts import NotFound, PicturePrompt

ENDINGS = (".png", ".webp", ".jpg", ".jpeg")
MAX_CHARACTERS = 4_000_000  # characters of metadata that are read
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be", b"JIS\0\0\0\0\0": "shift_jis", b"\0" * 8: "utf-8"}
NAMED = re.compile(r"(prompt|workflow|parameters)\s*:\s*", re.IGNORECASE)
NO_METADATA = "it holds no metadata in which a prompt is looked for"


def read_prompt(path: Path) -> PicturePrompt | None:
    """The prompt in the metadata of the picture `path`; None without one. Pixels are not decoded.

    Raises:
        FewShotError: the file is no picture or is damaged.
    """
    try:
        return find_prompt(path)
    except NotFound:
        return None


def find_prompt(path: Path) -> PicturePrompt:
    """The prompt in the metadata of the picture `path`.

    Raises:
        NotFound: there is none, or none that can be told; the message says why.
        FewShotError: the file is no picture or is damaged, or its prompt has letters that are none.
    """
    try:
        with open_picture(path) as picture:
            texts = dict(_texts(picture))
            size = picture.size
    except FileNotFoundError:
        raise FewShotError(f"{path} is not there") from None
    except Exception as error:  # Pillow's readers raise what they like on broken files
        raise FewShotError(f"{path.name} is damaged ({error})") from None
    prompt = _prompt(texts, path)
    for text in (prompt.positive, prompt.negative, *map(str, prompt.parameters.values())):
        check_letters(text)
    known = {"width": size[0], "height": size[1]}
    return replace(prompt, parameters=known | dict(prompt.parameters))


def _prompt(texts: Mapping[str, str], path: Path) -> PicturePrompt:
    if not texts:
        raise NotFound(NO_METADATA)
    reason = NotFound("its metadata are in no form that is known")
    if texts.get("prompt") or texts.get("workflow"):
        try:
            return read_comfy(texts.get("prompt", ""), texts.get("workflow", ""), path)
        except NotFound as error:
            reason = error
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            reason = NotFound(f"its graph is not as ComfyUI writes it ({type(error).__name__})")
    other = read_other(texts)
    if other is None:
        raise reason
    if not other.positive:
        raise NotFound("its prompt is empty")
    return other


# -------------------------------------------------------------------------------------------------- texts in a file


def _texts(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """Named texts of a picture: PNG chunks, and in EXIF what ComfyUI ("prompt:{...}") and other programs put there."""
    for name, value in picture.info.items():
        if isinstance(value, str) and name in ("prompt", "workflow", *NAMES):
            yield name, value[:MAX_CHARACTERS]
    if picture.format == "PNG" and "exif" not in picture.info:
        return  # Pillow would decode the pixels to look for EXIF behind them
    exif = picture.getexif()
    for value in exif.values():
        if isinstance(value, str) and (match := NAMED.match(value)):
            yield match[1].lower(), value[match.end() : MAX_CHARACTERS]
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT) if exif else None
    yield from _in_comment(_comment(comment))


def _comment(value: bytes | str | None) -> str:
    """EXIF's UserComment: eight bytes name its code, then the text; many tools get the byte order wrong."""
    if isinstance(value, str):
        return value[:MAX_CHARACTERS]
    if not value:
        return ""
    code, raw = CODES.get(bytes(value[:8])), bytes(value[8:MAX_CHARACTERS])
    if code is None:
        return bytes(value[:MAX_CHARACTERS]).decode("utf-8", "replace")
    if code == "utf-16-be" and raw[1:2] == b"\0":
        code = "utf-16-le"
    return raw.decode(code, "replace").strip("\0")


def _in_comment(text: str) -> Iterator[tuple[str, str]]:
    """What a comment holds: a graph, a graph and a workflow by their names, or another program's settings."""
    if match := NAMED.match(text):
        yield match[1].lower(), text[match.end() :]
        return
    try:
        values: Any = json.loads(text) if text.lstrip().startswith("{") else {}
    except (ValueError, RecursionError):
        values = {}
    named = {name: values[name] for name in ("prompt", "workflow") if isinstance(values.get(name), (dict, str))}
    if any(isinstance(value, dict) or value.lstrip().startswith("{") for value in named.values()):
        for name, value in named.items():
            yield name, value if isinstance(value, str) else json.dumps(value)
    elif any(isinstance(node, dict) and "class_type" in node for node in values.values()):
        yield "prompt", text
    elif isinstance(values.get("nodes"), list):
        yield "workflow", text
    elif text.strip():
        yield "parameters", text
