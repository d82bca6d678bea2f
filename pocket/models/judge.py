"""The judge of the pocket: two independent scene readers.

A judge measures. It is never a reward, a training signal or a criterion for checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..world import world
from ..world.pictures import subject_named
from .reader import ACCESSORIES, COLOURS, LAYOUTS, NOUNS, PLACES, SceneReader, split
from .weights import WEIGHTS

NAMES = ("reader_a", "reader_b")


@dataclass(frozen=True)
class ThingReading:
    """A reader's output for one thing."""

    noun: str
    pattern: str
    colours: frozenset[str]
    accessory: str | None

    @property
    def look(self) -> tuple[str, str, frozenset[str]]:
        return self.noun, self.pattern, self.colours


@dataclass(frozen=True)
class SceneReading:
    """A reader's output for one picture; things in the order of the layout, missing ones left out."""

    things: tuple[ThingReading, ...]
    place: str
    layout: str


def same_judgement(first: SceneReading, second: SceneReading) -> bool:
    """Whether two readings agree in everything that fidelities depend on: looks, accessories, place and layout."""
    return _judged_answers(first) == _judged_answers(second)


def same_scene(first: SceneReading, second: SceneReading) -> bool:
    """Whether two readings agree in classes, place and layout."""
    return _scene_answers(first) == _scene_answers(second)


def _scene_answers(reading: SceneReading) -> tuple:
    return reading.place, reading.layout, [thing.noun for thing in reading.things]


def _judged_answers(reading: SceneReading) -> tuple:
    return reading.place, reading.layout, [(thing.look, thing.accessory) for thing in reading.things]


def _thing(answers: dict[str, torch.Tensor], index: int) -> ThingReading | None:
    noun = NOUNS[int(answers["noun"][index].argmax())]
    if noun is None:
        return None
    pattern = world.PATTERNS[int(answers["pattern"][index].argmax())]
    best = answers["colours"][index].topk(1 if pattern == "plain" else 2).indices
    colours = frozenset(COLOURS[int(i)] for i in best)
    return ThingReading(noun, pattern, colours, ACCESSORIES[int(answers["accessory"][index].argmax())])


@torch.no_grad()
def read(reader: SceneReader, pictures: torch.Tensor) -> list[SceneReading]:
    """Read pictures (B, 3, 64, 64) in [-1, 1]."""
    logits = torch.cat([reader(chunk) for chunk in pictures.float().split(128)])
    first, second, scene = split(logits)
    readings = []
    for i in range(len(logits)):
        things = (_thing(first, i), _thing(second, i))
        place, layout = PLACES[int(scene["place"][i].argmax())], LAYOUTS[int(scene["layout"][i].argmax())]
        readings.append(SceneReading(tuple(t for t in things if t), place, layout))
    return readings


def as_tensor(images: Sequence[Image.Image]) -> torch.Tensor:
    """PIL pictures to (B, 3, 64, 64) in [-1, 1]; other sizes are reduced."""
    small = [image.convert("RGB").resize((world.SIZE, world.SIZE), Image.Resampling.BOX) for image in images]
    return torch.from_numpy(np.stack([np.asarray(s) for s in small])).permute(0, 3, 1, 2).float() / 127.5 - 1


class SubjectJudge:
    """Reads pictures with both readers; the first one judges, the second one measures how certain it is."""

    name = "judge"

    def __init__(self, weights: Path = WEIGHTS):
        self.weights = weights
        self.model_id = "pocket scene readers"

    @cached_property
    def readers(self) -> tuple[SceneReader, ...]:
        return tuple(SceneReader.from_pretrained(self.weights / name).eval() for name in NAMES)

    def readings(self, images: Sequence[Image.Image]) -> list[list[SceneReading]]:
        """Each reader's reading of each picture."""
        pictures = as_tensor(images)
        return [read(reader, pictures) for reader in self.readers]

    def shows(self, images: Sequence[Image.Image], subject: str) -> list[bool]:
        """Whether each picture shows the subject: class, pattern and colours right."""
        look = subject_named(subject).thing.look
        return [any(t.look == look for t in r.things) for r in self.readings(images)[0]]

    def subject_fidelity(self, images: Sequence[Image.Image], subject: str) -> float:
        """Share of pictures that show the subject, in [0, 1]."""
        return float(np.mean(self.shows(images, subject)))

    def agree(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether both readers agree in classes, place and layout of each picture."""
        return [same_scene(a, b) for a, b in zip(*self.readings(images), strict=True)]
