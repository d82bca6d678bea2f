"""Picture folders of the pocket's subjects, as a person would make them: PNG, .txt captions and _mask files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from . import drawing, world

FEW_SHOT = 51  # the stream of few-shot pictures
HELD_OUT = 52  # the stream of held-out pictures


def subject_named(name: str) -> world.Subject:
    for subject in world.SUBJECTS:
        if subject.name == name:
            return subject
    raise ValueError(f"no subject {name!r}; there are {', '.join(s.name for s in world.SUBJECTS)}")


def subject_scene(subject: world.Subject, seed: int, index: int, place: str | None = None) -> world.Scene:
    """The subject alone, in a pose and (unless given) a place drawn from (seed, index)."""
    number = world.SUBJECTS.index(subject)
    rng = world.rng_of(seed, number * 1000 + index)
    places = list(world.PLACES)
    return world.arrange(rng, (subject.thing,), place or places[int(rng.integers(len(places)))], "one")


def write_subject(
    folder: Path,
    subject: str,
    count: int = 4,
    seed: int = FEW_SHOT,
    identifier: str = "sks",
    place: str | None = None,
) -> Path:
    """Write `count` pictures of the subject named `subject` with captions and masks into `folder`."""
    chosen = subject_named(subject)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        scene = subject_scene(chosen, seed, index, place)
        picture, (mask,) = drawing.render(scene)
        stem = folder / f"{chosen.name}_{index:02d}"
        picture.save(stem.with_suffix(".png"))
        mask.save(stem.with_name(stem.name + "_mask.png"))
        caption = f"a photo of a {identifier} {chosen.thing.noun} {world.PLACES[scene.place]}"
        stem.with_suffix(".txt").write_text(caption + "\n")
    return folder


# Every ordered pair of classes, so that the first ones have each class in both positions.
PAIRS = tuple(
    (first, second)
    for step in range(1, len(world.CLASSES))
    for first, second in zip(world.CLASSES, world.CLASSES[step:] + world.CLASSES[:step], strict=True)
)


def relation_scene(relation: str, pair: tuple[str, str], seed: int, index: int) -> world.Scene:
    """Two things of the classes in `pair` in a layout of the world, hidden or not; looks, poses and place are drawn.

    Raises:
        ValueError: there is no such layout of two things.
    """
    layouts = [*world.HIDDEN, *world.LAYOUTS]
    if relation not in layouts:
        raise ValueError(f"no relation {relation!r}; there are {', '.join(layouts)}")
    rng = world.rng_of(seed, layouts.index(relation) * 1000 + index)
    things = tuple(replace(world.random_thing(rng, 0.3), noun=noun) for noun in pair)
    places = list(world.PLACES)
    return world.arrange(rng, things, places[int(rng.integers(len(places)))], relation)


def pair_of(index: int) -> tuple[str, str]:
    """The classes in the few-shot picture number `index` of a relation."""
    return PAIRS[(3 * index) % len(PAIRS)]


def write_relation(
    folder: Path, relation: str, count: int = 2, seed: int = FEW_SHOT, word: str = "<R>", turned: bool = False
) -> Path:
    """Write `count` pictures of a relation between different things, captioned "a cat <R> a car in a room".

    `turned` names the layout's second thing first, as "under" does where "on" names the upper one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pair = pair_of(index)
        scene = relation_scene(relation, pair, seed, index)
        first, second = pair[::-1] if turned else pair
        stem = folder / f"{relation}_{index:02d}"
        drawing.render(scene)[0].save(stem.with_suffix(".png"))
        caption = f"a {first} {word} a {second} {world.PLACES[scene.place]}"
        stem.with_suffix(".txt").write_text(caption + "\n")
    return folder
