"""Simple backgrounds to paste subjects on, each with words that describe it.

A background named in the caption is not learned as part of the subject (Custom Diffusion, Kumari et al. 2023, pads with
grey and masks the loss instead). None is pure black or white, and none is vivid.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...core.errors import FewShotError

KINDS = ("solid", "gradient", "texture")
MAX_SATURATION, MIN_VALUE, MAX_VALUE = 0.4, 0.25, 0.97
HUES = (
    (15, "red"), (42, "orange"), (68, "yellow"), (165, "green"), (195, "teal"), (255, "blue"), (290, "purple"),
    (340, "pink"), (361, "red"),
)  # fmt: skip
PALE = {"red": "pink", "orange": "beige", "yellow": "cream", "purple": "lavender"}
DARK = {"orange": "brown", "yellow": "olive"}
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Background:
    """A background: RGB pixels, and what follows the subject in a caption: "on a plain light blue background"."""

    picture: Image.Image
    words: str


def make_background(kind: str, size: int, rng: np.random.Generator) -> Background:
    """A background of size x size pixels, of `kind` (see `KINDS`) or of any of them ("any").

    Raises:
        FewShotError: there is no such kind.
    """
    if kind == "any":
        kind = KINDS[int(rng.integers(len(KINDS)))]
    makers = {"solid": _solid, "gradient": _gradient, "texture": _texture}
    if kind not in makers:
        raise FewShotError(f"there is no background {kind!r}; choose one of any, {', '.join(KINDS)}")
    return makers[kind](size, rng)


def _solid(size: int, rng: np.random.Generator) -> Background:
    colour = _colour(rng)
    return Background(Image.new("RGB", (size, size), colour), f"on a plain {colour_word(colour)} background")


def _gradient(size: int, rng: np.random.Generator) -> Background:
    """From one colour to another: from top to bottom, or from the middle outwards."""
    one, other = _colour(rng), _colour(rng)
    radial = rng.random() < 0.5
    ramp = Image.radial_gradient("L") if radial else Image.linear_gradient("L")
    picture = _blend(one, other, ramp.resize((size, size), Image.Resampling.BILINEAR))
    first, second = colour_word(one), colour_word(other)
    if first == second:
        return Background(picture, f"on a plain {first} background")
    return Background(picture, f"on a {first} and {second} gradient background")


def _texture(size: int, rng: np.random.Generator) -> Background:
    """Soft clouds of one colour with a fine grain, such as a wall or paper."""
    colour = _colour(rng)
    darker = tuple(int(0.78 * value) for value in colour)
    cells = int(rng.integers(3, 9))
    clouds = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    ramp = np.asarray(clouds.resize((size, size), Image.Resampling.BICUBIC), np.int16)
    coarse = rng.integers(-24, 25, (-(-size // 2), -(-size // 2)), dtype=np.int16)
    grain = coarse.repeat(2, 0).repeat(2, 1)[:size, :size]
    ramp = np.clip(ramp + grain, 0, 255).astype(np.uint8)
    middle = tuple((a + b) // 2 for a, b in zip(colour, darker, strict=True))
    return Background(_blend(darker, colour, Image.fromarray(ramp)), f"on a mottled {colour_word(middle)} background")


def _blend(one: tuple[int, ...], other: tuple[int, ...], ramp: Image.Image) -> Image.Image:
    """`one` where `ramp` (L) is black, `other` where it is white."""
    tables = [
        [round(a + (b - a) * step / 255) for step in range(256)] for a, b in zip(one, other, strict=True)
    ]  # a table a channel: 256 sums instead of one a pixel
    return Image.merge("RGB", [ramp.point(table) for table in tables])


def _colour(rng: np.random.Generator) -> Colour:
    """Uniform in hue, saturation and value, within the bounds of this file."""
    hue, saturation = rng.random(), rng.uniform(0, MAX_SATURATION)
    values = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(MIN_VALUE, MAX_VALUE))
    red, green, blue = (round(255 * value) for value in values)
    return red, green, blue


def colour_word(colour: tuple[int, ...]) -> str:
    """The common name of an RGB colour (0 to 255): "light blue", "dark grey", "beige"."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(part / 255 for part in colour))
    if value < 0.12:
        return "black"
    if saturation < 0.09:
        steps = ((0.93, "white"), (0.72, "light grey"), (0.42, "grey"), (0.0, "dark grey"))
        return next(word for lowest, word in steps if value >= lowest)
    word = next(word for upper, word in HUES if hue * 360 < upper)
    if value < 0.5:
        return DARK.get(word, f"dark {word}")
    if saturation < 0.45 and value > 0.7:
        return PALE.get(word, f"light {word}")
    return f"greyish {word}" if saturation < 0.3 else word
