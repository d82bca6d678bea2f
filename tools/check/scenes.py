"""Pictures whose contents are known, drawn here: what is in them, where, and which words are true of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ...pocket.world import drawing, world

SIDE = 512


@dataclass(frozen=True)
class KnownPicture:
    """A picture of one thing: `phrase` names it, `mask` (H, W) bool is where it is, `caption` is true of the picture.

    `words` are such as a description of it would hold at least one of.
    """

    picture: Image.Image
    phrase: str
    mask: np.ndarray
    caption: str
    words: tuple[str, ...] = ()

    @property
    def box(self) -> tuple[float, float, float, float]:
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


@dataclass(frozen=True)
class KnownPictures:
    """`one`; `again`, the same thing elsewhere in the same surroundings; and `other`, of which nothing is the same.

    `absent` is in none of them.
    """

    one: KnownPicture
    again: KnownPicture
    other: KnownPicture
    absent: str = "elephant"


def drawn() -> KnownPictures:
    """A red ball on green grass, and a yellow house at night, as large as photographs."""
    return KnownPictures(_ball(200, 330, 110), _ball(330, 350, 80), _house())


def pocket() -> KnownPictures:
    """The same in the pocket's world, which its own models were trained on."""
    cat, house = world.Thing("cat", ("red",)), world.Thing("house", ("blue",))
    return KnownPictures(
        _scene(cat, "beach", 0, "a photo of a red cat on the beach"),
        _scene(cat, "beach", 1, "a photo of a red cat on the beach"),
        _scene(house, "night", 2, "a photo of a blue house at night"),
        "fish",
    )


def _scene(thing: world.Thing, place: str, index: int, caption: str) -> KnownPicture:
    picture, (mask,) = drawing.render(world.arrange(world.rng_of(7, index), (thing,), place, "one"))
    return KnownPicture(picture, thing.noun, np.asarray(mask.convert("L")) > 127, caption, (thing.noun,))


def _ball(x: int, y: int, radius: int) -> KnownPicture:
    """A shaded ball with its shadow, below a sky."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    sky = np.stack([135 + 0.2 * rows, 185 + 0.14 * rows, 240 + 0 * rows], -1)
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 14, (SIDE, SIDE, 1))
    blades = np.stack([60 + 0.05 * rows, 140 - 0.04 * rows, 50 + 0 * rows], -1) + noise
    pixels = np.where((rows < 220)[..., None], sky, blades)
    shadow = ((columns - x - 12) / (1.05 * radius)) ** 2 + ((rows - y - 0.92 * radius) / (0.25 * radius)) ** 2 < 1
    pixels = np.where(shadow[..., None], 0.55 * pixels, pixels)
    mask = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
    light = 1 - np.hypot(columns - x + 0.35 * radius, rows - y + 0.4 * radius) / (1.9 * radius)
    shaded = np.stack(
        [110 + 140 * light, 10 + 60 * np.clip(light - 0.55, 0, 1), 15 + 60 * np.clip(light - 0.55, 0, 1)], -1
    )
    pixels = np.where(mask[..., None], shaded, pixels)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    return KnownPicture(picture, "red ball", mask, "a red ball on green grass", ("red", "ball", "sphere", "circle"))


def _house() -> KnownPicture:
    """A house with a roof, a door and windows, below stars and a moon."""
    picture, mask = Image.new("RGB", (SIDE, SIDE), (12, 16, 48)), Image.new("1", (SIDE, SIDE))
    draw, shape = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
    rng = np.random.Generator(np.random.PCG64(1))
    for x, y in rng.integers(0, SIDE, (70, 2)).tolist():
        draw.ellipse((x, y, x + 2, y + 2), fill=(240, 240, 220))
    draw.ellipse((400, 40, 460, 100), fill=(250, 246, 210))
    draw.rectangle((0, 420, SIDE, SIDE), fill=(20, 26, 34))
    walls, roof = (130, 240, 390, 440), [(105, 245), (260, 120), (415, 245)]
    for into, wall, tiles in ((draw, (240, 200, 60), (150, 60, 40)), (shape, 1, 1)):
        into.rectangle(walls, fill=wall)
        into.polygon(roof, fill=tiles)
    draw.rectangle((235, 340, 290, 440), fill=(110, 60, 30))
    for left in (155, 320):
        draw.rectangle((left, 280, left + 45, 325), fill=(255, 250, 200), outline=(90, 60, 30), width=4)
    return KnownPicture(picture, "yellow house", np.array(mask, bool), "a yellow house at night", ("house", "night"))
