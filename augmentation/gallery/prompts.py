"""The prompt of a picture, as its metadata tells it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PicturePrompt:
    """A picture's prompt. `parameters`: seed, steps, cfg, sampler, scheduler, model, width, height as far as known.

    `no_negative` says why the negative prompt cannot be found, "" where it is known.
    """

    positive: str
    negative: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tool: str = ""
    no_negative: str = ""


class NotFound(Exception):
    """A prompt cannot be found; the message says why."""


def one_line(text: str) -> str:
    return " ".join(text.split())
