"""What the bench of subjects teaches and asks for: training sets of the pocket's subjects, and prompts with answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..augmentation.combining import combine
from ..augmentation.decoding import pixel_key, write_png
from ..augmentation.pictures import load_mask, load_picture, subject_from_folder
from ..models.values import Part, Picture, Sample, TrainingSet
from ..pocket import judge, pictures, world

REFERENCES = 4
PASTED = 12
"""pictures that segment-and-paste adds to the references of one subject"""
TONES = ((250, 244, 226), (206, 226, 240), (228, 214, 234), (214, 234, 210), (240, 216, 206))


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
    pictures.write_subject(folder, subject, REFERENCES, identifier=identifier, place=place)
    return subject_from_folder(folder, identifier, told.thing.noun, told.description if described else "")


def held_out(folder: Path, subject: str, count: int = 8) -> TrainingSet:
    """Pictures of the subject that are never trained on, with their true masks."""
    folder = folder / f"{subject}_held_out"
    pictures.write_subject(folder, subject, count, pictures.HELD_OUT)
    return subject_from_folder(folder, "sks", pictures.subject_named(subject).thing.noun)


# ------------------------------------------------------------------------------------------------------ pasting


def pasted(folder: Path, one: TrainingSet, seed: int, count: int = PASTED) -> TrainingSet:
    """`one` with its subject cut out and put elsewhere, in other sizes, on plain grounds."""
    made = [_composite(folder, one, [index % len(one.references)], seed, index) for index in range(count)]
    return one.with_samples((*one.samples, *made))


def together(folder: Path, sets: Sequence[TrainingSet], seed: int, count: int = PASTED) -> TrainingSet:
    """The subjects of several sets as one set, with composites of them all."""
    joined = combine(sets)
    own = [
        [i for i, s in enumerate(joined.references) if s.concept == number] for number in range(len(joined.concepts))
    ]
    made = []
    for index in range(count):
        rng = world.lots(seed, 5000 + index)
        made.append(_composite(folder, joined, [int(rng.choice(group)) for group in own], seed, 1000 + index))
    return joined.with_samples((*joined.samples, *made))


def _composite(folder: Path, source: TrainingSet, which: Sequence[int], seed: int, index: int) -> Sample:
    """The subjects of the references `which` from left to right on one ground, in random order, sizes and places."""
    rng = world.lots(seed, index)
    ground = Image.new("RGB", (world.SIZE, world.SIZE), TONES[int(rng.integers(len(TONES)))])
    samples = [source.references[which[int(number)]] for number in rng.permutation(len(which))]
    masks = {
        sample.concept: _stored(_put(ground, sample, slot, world.SIZE // len(which), rng), folder)
        for slot, sample in enumerate(samples)
    }
    first, *others = masks
    caption = "a photo of " + " and ".join(f"a {source.concepts[number].phrase}" for number in masks)
    parts = tuple(Part(number, masks[number]) for number in others)
    return Sample(_stored(ground, folder), caption, masks[first], concept=first, others=parts)


def _put(ground: Image.Image, sample: Sample, slot: int, room: int, rng: np.random.Generator) -> Image.Image:
    """Paste a sample's subject into the slot, `room` pixels wide; gives its mask."""
    cut, shape = _cut_out(sample)
    scale = float(rng.uniform(0.65, 1.0)) * min(room / cut.width, 0.8 * ground.height / cut.height, 1.3)
    size = (max(1, int(cut.width * scale)), max(1, int(cut.height * scale)))
    left = slot * room + int(rng.integers(0, room - size[0] + 1))
    top = int(rng.integers(0, ground.height - size[1] + 1))
    shape = shape.resize(size, Image.Resampling.BILINEAR)
    ground.paste(cut.resize(size, Image.Resampling.LANCZOS), (left, top), shape)
    mask = Image.new("L", ground.size)
    mask.paste(shape, (left, top))
    return mask


def _cut_out(sample: Sample) -> tuple[Image.Image, Image.Image]:
    assert sample.mask is not None
    mask = load_mask(sample.mask)
    box = mask.point([0] * 128 + [255] * 128).getbbox()
    return load_picture(sample.image).crop(box), mask.crop(box)


def _stored(pixels: Image.Image, folder: Path) -> Picture:
    key = pixel_key(pixels)
    return Picture(write_png(pixels, folder / "pasted" / f"{key}.png"), key, *pixels.size)
