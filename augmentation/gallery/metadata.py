"""Prompts in pictures' metadata, as ComfyUI and A1111 write them into PNG, WebP and JPEG files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...core.errors import FewShotError
from ...core.images import open_picture
from ...models.public_names import BASE_WIDGETS

ENDINGS = (".png", ".webp", ".jpg", ".jpeg")
MAX_CHARACTERS = 4_000_000  # characters of metadata that are read
USER_COMMENT, EXIF_IFD = 0x9286, 0x8769
MAKE, MODEL, DESCRIPTION = 0x010F, 0x0110, 0x010E
CODES = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be", b"JIS\0\0\0\0\0": "shift_jis", b"\0" * 8: "utf-8"}
TEXTS = ("text", "text_g", "text_l", "prompt", "positive", "string", "value", "clip_l", "t5xxl", "t5_prompt")
SETTING = re.compile(r'\s*([\w /-]+):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')
SETTINGS_START = re.compile(r"^Steps: \d+", re.MULTILINE)


@dataclass(frozen=True)
class PicturePrompt:
    """A picture's prompt. `parameters`: seed, steps, cfg, sampler, scheduler, model, width, height as far as known."""

    positive: str
    negative: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tool: str = ""


def read_prompt(path: Path) -> PicturePrompt | None:
    """The prompt in the metadata of the picture `path`; None without one. Pixels are not decoded.

    Raises:
        FewShotError: the file is no picture or is damaged.
    """
    try:
        with open_picture(path) as picture:
            texts = dict(_texts(picture))
            size = picture.size
    except FileNotFoundError:
        raise FewShotError(f"{path} is not there") from None
    except Exception as error:  # Pillow's readers raise what they like on broken files
        raise FewShotError(f"{path.name} is damaged ({error})") from None
    prompt = _comfy(texts.get("prompt", "")) or _a1111(texts.get("parameters", ""))
    if prompt is None or not prompt.positive:
        return None
    known = {"width": size[0], "height": size[1]}
    return PicturePrompt(prompt.positive, prompt.negative, known | dict(prompt.parameters), prompt.tool)


def _texts(picture: Image.Image) -> Iterator[tuple[str, str]]:
    """Named texts of a picture: PNG chunks, and in EXIF what ComfyUI ("prompt:{...}") and A1111 put there."""
    for name, value in picture.info.items():
        if isinstance(value, str) and name in ("prompt", "parameters"):
            yield name, value[:MAX_CHARACTERS]
    if picture.format == "PNG" and "exif" not in picture.info:
        return  # Pillow would decode the pixels to look for EXIF behind them
    exif = picture.getexif()
    for tag in (MODEL, MAKE, DESCRIPTION):
        value = exif.get(tag)
        if isinstance(value, str) and value.lower().startswith("prompt:"):
            yield "prompt", value[len("prompt:") : MAX_CHARACTERS]
    comment = exif.get_ifd(EXIF_IFD).get(USER_COMMENT) if exif else None
    if text := _comment(comment):
        yield ("prompt" if text.lstrip().startswith("{") else "parameters"), text


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


# ------------------------------------------------------------------------------------------------------------ A1111


def _a1111(text: str) -> PicturePrompt | None:
    """Takes apart "positive\\nNegative prompt: ...\\nSteps: 20, Sampler: ..."."""
    start = SETTINGS_START.search(text)
    if not text.strip() or (start is None and "Negative prompt:" not in text):
        return None
    prompts, settings = (text[: start.start()], text[start.start() :]) if start else (text, "")
    positive, _, negative = prompts.partition("Negative prompt:")
    values = {name.strip().lower(): value.strip().strip('"') for name, value in SETTING.findall(settings)}
    names = {"seed": "seed", "steps": "steps", "cfg scale": "cfg", "sampler": "sampler", "schedule type": "scheduler"}
    parameters: dict[str, Any] = {ours: _number(values[theirs]) for theirs, ours in names.items() if theirs in values}
    if "model" in values:
        parameters["model"] = values["model"]
    if size := re.fullmatch(r"(\d+)x(\d+)", values.get("size", "")):
        parameters |= {"width": int(size[1]), "height": int(size[2])}
    return PicturePrompt(_line(positive), _line(negative), parameters, "A1111")


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _line(text: str) -> str:
    return " ".join(text.split())


# ----------------------------------------------------------------------------------------------------------- ComfyUI


def _comfy(text: str) -> PicturePrompt | None:
    """The prompts that reach a sampler of an API graph {"3": {"class_type": ..., "inputs": {...}}}."""
    try:
        graph = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return None
    if not isinstance(graph, dict):
        return None
    graph = {
        str(key): node for key, node in graph.items() if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    for node in graph.values():
        inputs = node["inputs"]
        # Samplers and guiders take a prompt; so do nodes between (ControlNet), which have none of these widgets.
        source = inputs.get("positive") or inputs.get("conditioning")
        guides = {"seed", "noise_seed", "cfg"} & set(inputs) or "Guider" in str(node.get("class_type"))
        if guides and (positive := _line(_text_at(source, graph))):
            negative = _line(_text_at(inputs.get("negative"), graph))
            return PicturePrompt(positive, negative, _settings(node, graph), "ComfyUI")
    texts = [t for n in graph.values() if "TextEncode" in str(n.get("class_type")) and (t := _own_text(n, graph))]
    return PicturePrompt(_line(max(texts, key=len)), "", _settings({"inputs": {}}, graph), "ComfyUI") if texts else None


def _linked(value: Any, graph: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and str(value[0]) in graph


def _text_at(source: Any, graph: Mapping[str, Any], depth: int = 0) -> str:
    """The text upstream of a link: at its node, or at the first of the node's own sources that has one."""
    if not _linked(source, graph) or depth > 20:
        return ""
    node = graph[str(source[0])]
    if text := _own_text(node, graph, depth):
        return text
    links = [
        value
        for name, value in node["inputs"].items()
        if _linked(value, graph) and name not in ("clip", "vae", "model")
    ]
    return next((text for link in links if (text := _text_at(link, graph, depth + 1))), "")


def _own_text(node: Mapping[str, Any], graph: Mapping[str, Any], depth: int = 0) -> str:
    inputs = node["inputs"]
    texts = []
    for name in TEXTS:
        value = inputs.get(name)
        if isinstance(value, str) and value.strip():
            texts.append(value)
        elif name != "positive" and _linked(value, graph) and (text := _text_at(value, graph, depth + 1)):
            texts.append(text)
    return ", ".join(dict.fromkeys(texts))


def _settings(sampler: Mapping[str, Any], graph: Mapping[str, Any]) -> dict[str, Any]:
    inputs = sampler["inputs"]
    names = {
        "seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "cfg", "sampler_name": "sampler",
        "scheduler": "scheduler", "denoise": "denoise",
    }  # fmt: skip
    settings = {
        ours: inputs[theirs] for theirs, ours in names.items() if isinstance(inputs.get(theirs), (int, float, str))
    }
    for node in graph.values():
        for name in BASE_WIDGETS:
            if isinstance(node["inputs"].get(name), str):
                settings.setdefault("model", node["inputs"][name])
    return settings
