"""Picture folders of the pocket's subjects, as a person would make them: PNG, .txt captions and _mask files."""

from __future__ import annotations

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
    rng = world.lots(seed, number * 1000 + index)
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
