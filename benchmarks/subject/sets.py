"""Training sets of the pocket's subjects, and prompts with what their pictures must show."""

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
# The defaults of Segment and Paste, without words for backgrounds and distances, which the pocket never learned.
PASTE_SETTINGS = PasteSettings(described=False)


@dataclass(frozen=True)
class PromptCheck:
    """A prompt of one subject and what its picture must show besides the subject; None is not checked."""

    prompt: str
    place: str | None = None
    accessory: str | None = None
    layout: str | None = None
    other: str | None = None
    first: bool = True

    def passes(self, reading: judge.SceneReading, noun: str) -> bool:
        """Whether place, accessory and relation are those of the prompt; the subject counts by its class only."""
        if self.place is not None and reading.place != self.place:
            return False
        if self.accessory is not None:
            return any(thing.noun == noun and thing.accessory == self.accessory for thing in reading.things)
        if self.layout is None:
            return True
        wanted = [noun, self.other] if self.first else [self.other, noun]
        nouns: list[str | None] = [thing.noun for thing in reading.things]
        return reading.layout == self.layout and (
            nouns == wanted or (self.layout == "beside" and nouns == wanted[::-1])
        )


def prompt_checks(noun: str, trigger: str, without: Sequence[str] = (), count: int = 12) -> tuple[PromptCheck, ...]:
    """Prompts in turn with a place, an accessory there, and a relation there; never with the places `without`."""
    rng = world.rng_of(91, world.CLASSES.index(noun))
    places = [place for place in world.PLACES if place not in without]
    others = [other for other in world.CLASSES if other != noun]
    checks = []
    for number in range(count):
        place = places[number % len(places)]
        there = world.PLACES[place]
        if number % 3 == 0:
            checks.append(PromptCheck(f"a photo of a {trigger} {there}", place))
        elif number % 3 == 1:
            accessory = list(world.ACCESSORIES)[number // 3 % len(world.ACCESSORIES)]
            words = world.ACCESSORIES[accessory]
            checks.append(PromptCheck(f"a photo of a {trigger} {words} {there}", place, accessory))
        else:
            layout, turned = list(world.LAYOUTS)[number // 3 % len(world.LAYOUTS)], bool(rng.random() < 0.5)
            word, other = world.LAYOUTS[layout][turned][0], others[int(rng.integers(len(others)))]
            prompt = f"a photo of a {trigger} {word} a {other} {there}"
            checks.append(PromptCheck(prompt, place, None, layout, other, first=not turned))
    return tuple(checks)


def references(
    folder: Path, subject: str, place: str | None = None, identifier: str = "sks", described: bool = False
) -> TrainingSet:
    """The few-shot pictures of one subject with their masks; all in one place if it is named."""
    chosen = pictures.subject_named(subject)
    folder = folder / f"{subject}_{identifier}_{place or 'anywhere'}"
    write_once(
        folder, partial(pictures.write_subject, subject=subject, count=REFERENCES, identifier=identifier, place=place)
    )
    return subject_from_folder(folder, identifier, chosen.thing.noun, chosen.description if described else "")


def held_out(folder: Path, subject: str, count: int = 8) -> TrainingSet:
    """Pictures of the subject that are never trained on, with their true masks."""
    folder = folder / f"{subject}_held_out"
    write_once(folder, partial(pictures.write_subject, subject=subject, count=count, seed=pictures.HELD_OUT))
    return subject_from_folder(folder, "sks", pictures.subject_named(subject).thing.noun)


def write_once(folder: Path, write: Callable[[Path], object]) -> None:
    """Write `folder` in one step, or leave it as it is: other processes may be reading it."""
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
    """`one` with its subject cut out and put elsewhere, in other sizes, on plain backgrounds."""
    return paste(one, replace(PASTE_SETTINGS, seed=seed), folder / "pasted").pictures


def combined_set(folder: Path, sets: Sequence[TrainingSet], seed: int, composites: bool = True) -> TrainingSet:
    """The subjects of several sets as one set; with composites of them, half of which show two."""
    merged = combine(sets)
    if not composites:
        return merged
    return paste(merged, replace(PASTE_SETTINGS, together=0.5, seed=seed), folder / "pasted").pictures
