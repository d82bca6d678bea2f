"""What the bench of subjects teaches and asks for: training sets of the pocket's subjects, and prompts with answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ...augmentation.composites.paste import PasteSettings, paste
from ...augmentation.images.combine import combine
from ...augmentation.images.load import subject_from_folder
from ...core.values import TrainingSet
from ...pocket.models import judge
from ...pocket.world import pictures, world

REFERENCES = 4
PASTE = PasteSettings(described=False)
"""Segment and Paste as it comes, without words for grounds and distances, which the pocket never learned"""


@dataclass(frozen=True)
class Ask:
    """A prompt of one subject and what its picture must show besides it; None stands for what is not asked."""

    prompt: str
    place: str | None = None
    accessory: str | None = None
    layout: str | None = None
    other: str | None = None
    first: bool = True

    def met(self, reading: judge.Reading, noun: str) -> bool:
        """Whether place, accessory and relation are those asked for; the subject counts by its class only."""
        if self.place is not None and reading.place != self.place:
            return False
        if self.accessory is not None:
            return any(thing.noun == noun and thing.accessory == self.accessory for thing in reading.things)
        if self.layout is None:
            return True
        wanted = [noun, self.other] if self.first else [self.other, noun]
        seen: list[str | None] = [thing.noun for thing in reading.things]
        return reading.layout == self.layout and (seen == wanted or (self.layout == "beside" and seen == wanted[::-1]))


def asks(noun: str, trigger: str, without: Sequence[str] = (), count: int = 12) -> tuple[Ask, ...]:
    """Prompts in turn for a place, an accessory there, and a relation there; never for the places `without`."""
    rng = world.lots(91, world.CLASSES.index(noun))
    places = [place for place in world.PLACES if place not in without]
    others = [other for other in world.CLASSES if other != noun]
    found = []
    for number in range(count):
        place = places[number % len(places)]
        there = world.PLACES[place]
        if number % 3 == 0:
            found.append(Ask(f"a photo of a {trigger} {there}", place))
        elif number % 3 == 1:
            accessory = list(world.ACCESSORIES)[number // 3 % len(world.ACCESSORIES)]
            words = world.ACCESSORIES[accessory]
            found.append(Ask(f"a photo of a {trigger} {words} {there}", place, accessory))
        else:
            layout, turned = list(world.LAYOUTS)[number // 3 % len(world.LAYOUTS)], bool(rng.random() < 0.5)
            word, other = world.LAYOUTS[layout][turned][0], others[int(rng.integers(len(others)))]
            prompt = f"a photo of a {trigger} {word} a {other} {there}"
            found.append(Ask(prompt, place, None, layout, other, first=not turned))
    return tuple(found)


def references(
    folder: Path, subject: str, place: str | None = None, identifier: str = "sks", described: bool = False
) -> TrainingSet:
    """The few-shot pictures of one subject with their masks; all in one place if it is named."""
    told = pictures.subject_named(subject)
    folder = folder / f"{subject}_{identifier}_{place or 'anywhere'}"
    _once(
        folder, partial(pictures.write_subject, subject=subject, count=REFERENCES, identifier=identifier, place=place)
    )
    return subject_from_folder(folder, identifier, told.thing.noun, told.description if described else "")


def held_out(folder: Path, subject: str, count: int = 8) -> TrainingSet:
    """Pictures of the subject that are never trained on, with their true masks."""
    folder = folder / f"{subject}_held_out"
    _once(folder, partial(pictures.write_subject, subject=subject, count=count, seed=pictures.HELD_OUT))
    return subject_from_folder(folder, "sks", pictures.subject_named(subject).thing.noun)


def _once(folder: Path, write: Callable[[Path], object]) -> None:
    """Fill `folder` whole, or leave it as it is: other processes may be reading it."""
    if folder.is_dir():
        return
    making = folder.with_name(f"{folder.name}.{os.getpid()}")
    write(making)
    try:
        making.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(making)  # another process was first


# ------------------------------------------------------------------------------------------------------ pasting


def pasted(folder: Path, one: TrainingSet, seed: int) -> TrainingSet:
    """`one` with its subject cut out and put elsewhere, in other sizes, on plain grounds."""
    return paste(one, replace(PASTE, seed=seed), folder / "pasted").pictures


def together(folder: Path, sets: Sequence[TrainingSet], seed: int, composites: bool = True) -> TrainingSet:
    """The subjects of several sets as one set; with composites of them, half of which show two."""
    joined = combine(sets)
    if not composites:
        return joined
    return paste(joined, replace(PASTE, together=0.5, seed=seed), folder / "pasted").pictures
