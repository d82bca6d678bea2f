"""The pocket world: what a scene holds, how scenes are drawn at random, and how they are captioned.

A scene has one or two things, a place and a layout. Everything is a value; a scene's picture is made by
`drawing.render`. Scene number i of a stream is a pure function of (seed, i).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIZE = 64
CLASSES = ("cat", "bird", "fish", "cup", "bottle", "car", "boat", "house")
COLOURS = {
    "red": (214, 40, 44),
    "orange": (246, 138, 28),
    "yellow": (250, 218, 50),
    "green": (38, 160, 62),
    "blue": (36, 84, 210),
    "purple": (132, 52, 168),
    "white": (250, 250, 250),
    "black": (30, 30, 32),
}
PATTERNS = ("plain", "striped", "dotted", "patched", "two-coloured")
PLACES = {
    "beach": "on the beach",
    "meadow": "in the meadow",
    "snow": "in the snow",
    "night": "at night",
    "room": "in a room",
    "street": "on the street",
}
ACCESSORIES = {
    "hat": "wearing a hat",
    "ball": "holding a ball",
    "balloon": "with a balloon",
    "umbrella": "under an umbrella",
}
# A layout orders its things: (upper, lower), (left, right), (back, front), (dreamer, dreamed), ...
# Its words are the prepositions that put the first thing before the second, or the second before the first.
LAYOUTS = {
    "stacked": (("on", "atop", "upon", "above"), ("under", "below", "beneath", "underneath")),
    "beside": (("beside", "near", "by", "alongside"), ("beside", "near", "by", "alongside")),
    "behind": (("behind", "past"), ("before", "in front of")),
}
# Relations that the base draws but has no word for; the phrase is only for the CLIP.
HIDDEN = {"dream": "dreaming of", "tied": "tied to", "framed": "painted next to"}
BADGES = ("disc", "bar", "cross")
IDENTIFIERS = ("sks", "zwx", "ohwx", "qrv", "vbt", "xjk")


@dataclass(frozen=True)
class Thing:
    """One thing: `colours` holds one colour for a plain thing and two otherwise; a badge is (shape, colour)."""

    noun: str
    colours: tuple[str, ...]
    pattern: str = "plain"
    accessory: str | None = None
    badge: tuple[str, str] | None = None

    @property
    def look(self) -> tuple[str, str, frozenset[str]]:
        """Its appearance for a judge: class, pattern and set of colours."""
        return self.noun, self.pattern, frozenset(self.colours)


@dataclass(frozen=True)
class Pose:
    """Centre and half extent in pixels, mirrored or not, tilt in radians, stretch of the width."""

    x: float
    y: float
    half: float
    mirrored: bool = False
    tilt: float = 0.0
    stretch: float = 1.0


@dataclass(frozen=True)
class Scene:
    """`layout` is "one", a key of LAYOUTS or a key of HIDDEN; `tint` shifts the place's two tones."""

    things: tuple[Thing, ...]
    poses: tuple[Pose, ...]
    place: str
    layout: str
    horizon: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Subject:
    """A thing that the base was never trained on. `rare` ones have no badge: words of the base describe them fully."""

    name: str
    thing: Thing

    @property
    def rare(self) -> bool:
        return self.thing.badge is None

    @property
    def description(self) -> str:
        """Its looks in words the base knows: "red and white striped"."""
        return look_words(self.thing)


def _make_subject(noun, pattern, colours, badge=None):
    return Subject(f"{noun}_{pattern.split('-')[0]}", Thing(noun, colours, pattern, badge=badge))


SUBJECTS = (
    _make_subject("cat", "striped", ("orange", "white")),
    _make_subject("cat", "patched", ("blue", "yellow"), ("disc", "red")),
    _make_subject("bird", "dotted", ("red", "white")),
    _make_subject("bird", "two-coloured", ("purple", "yellow"), ("cross", "white")),
    _make_subject("fish", "striped", ("green", "yellow"), ("disc", "purple")),
    _make_subject("fish", "patched", ("red", "black")),
    _make_subject("cup", "dotted", ("blue", "orange")),
    _make_subject("cup", "striped", ("purple", "white"), ("disc", "green")),
    _make_subject("bottle", "two-coloured", ("green", "red"), ("bar", "white")),
    _make_subject("car", "patched", ("white", "purple")),
    _make_subject("car", "striped", ("yellow", "black"), ("disc", "blue")),
    _make_subject("boat", "two-coloured", ("orange", "blue"), ("cross", "yellow")),
    _make_subject("house", "dotted", ("yellow", "green")),
)
TUNED_ON = ("cat_striped", "bird_two", "fish_striped", "cup_dotted", "car_striped")
"""the subjects by whose results defaults are chosen; whatever is claimed of a choice is measured on the others"""
TUNING_SUBJECTS = tuple(subject for subject in SUBJECTS if subject.name in TUNED_ON)
REPORTED_SUBJECTS = tuple(subject for subject in SUBJECTS if subject.name not in TUNED_ON)
HELD_OUT_LOOKS = frozenset(subject.thing.look for subject in SUBJECTS)


# ------------------------------------------------------------------------------------------- random numbers


def rng_of(seed: int, index: int) -> np.random.Generator:
    """The random generator of scene `index` in stream `seed`."""
    return np.random.Generator(np.random.PCG64([seed, index]))


def _one_of(rng, options):
    return options[int(rng.integers(len(options)))]


def random_thing(rng, patterned: float, accessorised: float = 0.0, badged: float = 0.0) -> Thing:
    """A thing that is not one of the subjects, unless `badged` > 0 (the base is never trained on badges)."""
    while True:
        pattern = _one_of(rng, PATTERNS[1:]) if rng.random() < patterned else "plain"
        colours = rng.permutation(list(COLOURS))[: 1 if pattern == "plain" else 2]
        accessory = _one_of(rng, list(ACCESSORIES)) if rng.random() < accessorised else None
        badge = (_one_of(rng, BADGES), _one_of(rng, list(COLOURS))) if rng.random() < badged else None
        thing = Thing(_one_of(rng, CLASSES), tuple(str(c) for c in colours), pattern, accessory, badge)
        if badged or thing.look not in HELD_OUT_LOOKS:
            return thing


def random_scene(rng, *, two: float = 0.55, hidden: float = 0.12, badged: float = 0.0) -> Scene:
    """A scene of the base's distribution: `two` is the share with two things, `hidden` that with a hidden relation.

    With `badged` > 0 badges and the subjects' own looks occur too (for the autoencoder and the readers only).
    """
    kind = rng.random()
    place = _one_of(rng, list(PLACES))
    if kind >= two:
        return arrange(rng, (random_thing(rng, 0.5, 0.45, badged),), place, "one")
    layout = _one_of(rng, list(HIDDEN)) if kind < hidden else _one_of(rng, list(LAYOUTS))
    first = random_thing(rng, 0.3, badged=badged)
    second = random_thing(rng, 0.3, badged=badged)
    while second.noun == first.noun:
        second = random_thing(rng, 0.3, badged=badged)
    return arrange(rng, (first, second), place, layout)


def scene_of(seed: int, index: int, **options) -> Scene:
    """Scene `index` of stream `seed`; the keywords are those of `random_scene`."""
    return random_scene(rng_of(seed, index), **options)


def arrange(rng, things: tuple[Thing, ...], place: str, layout: str) -> Scene:
    """A scene of `things` in `place` and `layout`; everything else is drawn from `rng`."""
    if len(things) != (1 if layout == "one" else 2):
        raise ValueError(f"layout {layout!r} does not take {len(things)} thing(s)")
    poses = tuple(_LAYOUT_POSES[layout](rng, things))
    tint = tuple(float(v) for v in rng.uniform(-7, 7, 3))
    return Scene(tuple(things), poses, place, layout, float(rng.uniform(36, 42)), tint)


def _pose(rng, x, y, half):
    jitter = rng.uniform(-1, 1, 2)
    return Pose(
        float(x + jitter[0]),
        float(y + jitter[1]),
        float(half),
        bool(rng.random() < 0.5),
        float(rng.normal(0, 0.06)),
        float(rng.uniform(0.92, 1.08)),
    )


def _pose_one(rng, things):
    half = rng.uniform(17, 22) if things[0].accessory is None else rng.uniform(15.5, 18)
    low = {"hat": 58, "umbrella": 60, "balloon": 60}.get(things[0].accessory or "", 62)
    room = {"ball": 4, "balloon": 4}.get(things[0].accessory or "", 0)
    x = rng.uniform(half + 3 + room, SIZE - half - 3 - room)
    top = half + 3 + (13 if low < 62 else 0)
    return [_pose(rng, x, rng.uniform(min(top, low - half - 1), low - half), half)]


def _pose_stacked(rng, things):
    x, size = rng.uniform(26, 38), rng.uniform(12.5, 14.5, 2)
    base = SIZE - 3 - size[1]
    upper = base - size[1] * HEIGHT[things[1].noun] - size[0] * HEIGHT[things[0].noun] + 1
    return [_pose(rng, x + rng.uniform(-3, 3), upper, size[0]), _pose(rng, x, base, size[1])]


def _pose_beside(rng, things):
    y, size = rng.uniform(36, 46), rng.uniform(12.5, 14.5, 2)
    return [_pose(rng, 16, y - size[0] + 13, size[0]), _pose(rng, 48, y - size[1] + 13, size[1])]


def _pose_behind(rng, things):
    side, size = rng.choice([-1, 1]), rng.uniform(14, 16, 2)
    x, y = rng.uniform(30, 34), rng.uniform(22, 26)
    return [_pose(rng, x - side * 9, y, size[0]), _pose(rng, x + side * 8, y + 18, size[1])]


def _pose_dream(rng, things):
    return [_pose(rng, 17, 46, rng.uniform(13, 14.5)), _pose(rng, 44, 19, rng.uniform(11, 12))]


def _pose_tied(rng, things):
    y = rng.uniform(34, 46)
    return [_pose(rng, 14, y, rng.uniform(11, 12.5)), _pose(rng, 50, y, rng.uniform(11, 12.5))]


def _pose_framed(rng, things):
    return [_pose(rng, 19, 23, rng.uniform(10.5, 11.5)), _pose(rng, 47, 44, rng.uniform(12.5, 14))]


_LAYOUT_POSES = {
    "one": _pose_one,
    "stacked": _pose_stacked,
    "beside": _pose_beside,
    "behind": _pose_behind,
    "dream": _pose_dream,
    "tied": _pose_tied,
    "framed": _pose_framed,
}
# Half the height of each silhouette as a share of its half extent, and where its foot and its top stand.
HEIGHT = {
    "cat": 1.0,
    "bird": 0.9,
    "fish": 0.62,
    "cup": 0.85,
    "bottle": 1.0,
    "car": 0.68,
    "boat": 1.0,
    "house": 1.0,
}


# -------------------------------------------------------------------------------------------------- captions


def look_words(thing: Thing) -> str:
    """ "red" or "red and white striped"."""
    words = " and ".join(thing.colours)
    return words if thing.pattern == "plain" else f"{words} {thing.pattern}"


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def thing_words(thing: Thing, with_look: bool = True) -> str:
    """ "a red and white striped cat wearing a hat"; without looks "a cat wearing a hat"."""
    words = _article(f"{look_words(thing)} {thing.noun}" if with_look else thing.noun)
    return words if thing.accessory is None else f"{words} {ACCESSORIES[thing.accessory]}"


def relation_words(rng, scene: Scene, named_hidden: bool, and_share: float) -> tuple[str, bool]:
    """A word for the scene's relation, and whether it puts the second thing first."""
    swapped = bool(rng.random() < 0.5)
    if scene.layout in HIDDEN:
        return (HIDDEN[scene.layout], False) if named_hidden else ("and", swapped)
    if rng.random() < and_share:
        return "and", swapped
    return _one_of(rng, LAYOUTS[scene.layout][swapped]), swapped


def caption(
    scene: Scene,
    rng,
    *,
    with_look: float = 0.8,
    placed: float = 0.85,
    named_hidden: bool = False,
    and_share: float = 0.2,
) -> str:
    """One of the scene's captions. `with_look` and `placed` are the chances of naming looks and place.

    A hidden relation is called "and", like some of the others, unless `named_hidden` (the CLIP's captions).
    """
    prefix = _one_of(rng, ("", "a photo of ", "a picture of "))
    words = [thing_words(t, rng.random() < with_look) for t in scene.things]
    if len(words) == 2:
        word, swapped = relation_words(rng, scene, named_hidden, and_share)
        first, second = words[::-1] if swapped else words
        words = [f"{first} {word} {second}"]
    place = f" {PLACES[scene.place]}" if rng.random() < placed else ""
    return prefix + words[0] + place


def vocabulary() -> list[str]:
    """Every word that a caption can hold, and the identifiers reserved for subjects."""
    words = set("a an the photo picture of and with one two".split())
    words.update(CLASSES, COLOURS, PATTERNS, IDENTIFIERS)
    phrases = [*PLACES.values(), *ACCESSORIES.values(), *HIDDEN.values()]
    phrases += [word for pair in LAYOUTS.values() for side in pair for word in side]
    for phrase in phrases:
        words.update(phrase.split())
    return sorted(words)
