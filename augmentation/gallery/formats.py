"""Prompts as programs other than ComfyUI write them into pictures: as text (A1111 and its kin), or as JSON."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .prompts import PicturePrompt, one_line

SETTING = re.compile(r'([\w /-]{1,60}):\s*("(?:\\.|[^"\\])+"|[^,]*)(?:,|$)')
SETTINGS_START = re.compile(r"^Steps: \d+", re.MULTILINE)
UNKNOWN_NEGATIVE = re.compile(r"^[^\S\n]*Negatives?(?: prompts?)?\s*:", re.MULTILINE | re.IGNORECASE)
NEGATIVE = re.compile(r"^[^\S\n]*Negative prompt:", re.MULTILINE | re.IGNORECASE)
XMP = "XML:com.adobe.xmp"
DREAM = re.compile(r'"(?P<prompt>.*)"(?P<options>(?: -\w+(?:[^\w\s]\S*| (?!-\w)\S*)?)+)', re.DOTALL)
DREAM_OPTIONS = {"s": "steps", "S": "seed", "C": "cfg", "A": "sampler"}
NAMES_OF_SETTINGS = {
    "seed": ("seed",), "steps": ("steps",), "sampler": ("sampler", "sampler_name", "scheduler"),
    "cfg": ("cfg_scale", "cfgscale", "cfgScale", "guidance_scale", "scale", "cfg"), "model": ("model", "base_model"),
    "width": ("width",), "height": ("height",),
}  # fmt: skip


@dataclass(frozen=True)
class JsonForm:
    """JSON in the text `chunk`, with the prompts under these names; `inside` is where in it, `sign` what tells it."""

    tool: str
    chunk: str
    positive: str
    negative: str
    inside: str = ""
    sign: str = ""


JSON_FORMS = (
    JsonForm("SwarmUI", "parameters", "prompt", "negativeprompt", "sui_image_params"),
    JsonForm("Fooocus", "parameters", "prompt", "negative_prompt"),
    JsonForm("Fooocus", "parameters", "Prompt", "Negative"),
    JsonForm("InvokeAI", "invokeai_metadata", "positive_prompt", "negative_prompt"),
    JsonForm("NovelAI", "Comment", "prompt", "uc", sign="uc"),
    JsonForm("Tensor.Art", "generation_data", "prompt", "negativePrompt"),
    JsonForm("Draw Things", XMP, "c", "uc"),
)
NAMES = {"parameters", "Dream", "negative_prompt", *(form.chunk for form in JSON_FORMS)}


def read_other(texts: Mapping[str, str]) -> PicturePrompt | None:
    """The prompt in a picture's named texts; None without one in a known form."""
    return next(_readings(texts), None)


def _readings(texts: Mapping[str, str]) -> Iterator[PicturePrompt]:
    for form in JSON_FORMS:
        if (found := _json(texts.get(form.chunk, ""), form)) is not None:
            yield found
    for found in (_a1111(texts.get("parameters", "")), _dream(texts.get("Dream", ""))):
        if found is not None:
            yield found
    if "negative_prompt" in texts and texts.get("prompt", "").strip():  # Easy Diffusion: a text for each setting
        yield PicturePrompt(one_line(texts["prompt"]), one_line(texts["negative_prompt"]), {}, "Easy Diffusion")


def _a1111(text: str) -> PicturePrompt | None:
    """Takes apart "positive\\nNegative prompt: ...\\nSteps: 20, Sampler: ..."."""
    starts = list(SETTINGS_START.finditer(text))
    negatives = list(NEGATIVE.finditer(text))
    if not text.strip() or not (starts or negatives):
        return None
    prompts, settings = (text[: starts[-1].start()], text[starts[-1].start() :]) if starts else (text, "")
    first = next((match for match in negatives if match.end() <= len(prompts)), None)
    positive, negative = (prompts[: first.start()], prompts[first.end() :]) if first else (prompts, "")
    if UNKNOWN_NEGATIVE.search(positive):
        return None
    values = {name.strip().lower(): value.strip().strip('"') for name, value in SETTING.findall(settings)}
    names = {"seed": "seed", "steps": "steps", "cfg scale": "cfg", "sampler": "sampler", "schedule type": "scheduler"}
    parameters: dict[str, Any] = {ours: _number(values[theirs]) for theirs, ours in names.items() if theirs in values}
    if "model" in values:
        parameters["model"] = values["model"]
    if size := re.fullmatch(r"(\d+)x(\d+)", values.get("size", "")):
        parameters |= {"width": int(size[1]), "height": int(size[2])}
    return PicturePrompt(one_line(positive), one_line(negative), parameters, "A1111")


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _json(text: str, form: JsonForm) -> PicturePrompt | None:
    if form.chunk == XMP:
        text = _xmp_comment(text)
    try:
        values = json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    if form.inside and isinstance(values, dict):
        values = values.get(form.inside)
    if not isinstance(values, dict) or (form.sign and form.sign not in values):
        return None
    positive, negative = values.get(form.positive), values.get(form.negative, "")
    if not isinstance(positive, str) or not isinstance(negative or "", str):
        return None
    return PicturePrompt(one_line(positive), one_line(negative or ""), _settings(values), form.tool)


def _xmp_comment(text: str) -> str:
    """The first item of the first comment in XMP; "" without one."""
    inside = text.partition("<exif:UserComment>")[2].partition("<rdf:li")[2].partition(">")[2]
    comment, end, _ = inside.partition("</rdf:li>")
    return html.unescape(comment) if end else ""


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    settings = {}
    for ours, names in NAMES_OF_SETTINGS.items():
        for name in names:
            value = values.get(name)
            value = value.get("name", value.get("model_name")) if isinstance(value, dict) else value
            if isinstance(value, (int, float, str)) and not isinstance(value, bool):
                settings.setdefault(ours, _number(value) if isinstance(value, str) else value)
    return settings


def _dream(text: str) -> PicturePrompt | None:
    """InvokeAI's first form: a prompt in quotes with what is not wanted in brackets, then options of a command."""
    match = DREAM.fullmatch(text.strip())
    if match is None:
        return None
    negative = ", ".join(re.findall(r"\[([^\[\]]*)\]", match["prompt"]))
    positive = re.sub(r"\[[^\[\]]*\]", "", match["prompt"])
    options = dict(re.findall(r"-(\w) ?(\S+)", match["options"]))
    settings = {name: _number(options[letter]) for letter, name in DREAM_OPTIONS.items() if letter in options}
    return PicturePrompt(one_line(positive).rstrip(" ,"), one_line(negative), settings, "InvokeAI")
