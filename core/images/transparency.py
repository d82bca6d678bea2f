"""Transparency: how it is told from colours, and what a picture with it looks like."""

from __future__ import annotations

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
# Lossy coding and resizing leave 250 to 254 where an alpha was 255; a few stray pixels are no shape.
NEARLY_OPAQUE, NEARLY_CLEAR, STRAY_SHARE = 250, 5, 0.001
# A PNG's transparent colour is given in the file's own bits, its pixels come in 8: by the raw mode of Pillow's reader.
KEY_SCALES = {"L;2": 85, "L;4": 17}


def scale_colour_key(picture: Image.Image, raw_mode: str) -> None:
    """Bring the colour that a PNG declares transparent to the 8 bits in which Pillow gives its pixels."""
    key = picture.info.get("transparency")
    if isinstance(key, int) and raw_mode in KEY_SCALES:
        picture.info["transparency"] = key * KEY_SCALES[raw_mode]
    elif isinstance(key, tuple) and raw_mode.startswith("RGB;16"):
        picture.info["transparency"] = tuple(value >> 8 for value in key)


def split_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """The colours without the alpha, in a mode without palette, and the alpha ("L"), None where there is none."""
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert(picture.mode.upper())
    if picture.mode == "LA":
        return picture.getchannel("L"), picture.getchannel("A")
    if picture.mode in ALPHA_MODES or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        return whole.convert("RGB"), whole.getchannel("A")
    return (picture.convert("RGB") if picture.mode == "P" else picture), None


def is_clear(alpha: Image.Image) -> bool:
    """Whether nothing is to be seen."""
    return int(np.asarray(alpha).max()) <= NEARLY_CLEAR


def on_white(colours: Image.Image, alpha: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """RGB colours as they are seen over white, and the alpha as a mask; None where nearly all is opaque.

    Every pixel is blended by its own alpha, on sRGB's encoded values, as browsers and picture viewers do: what lies
    under full transparency never counts, since nobody sees it and encoders write there what they like.
    """
    ground = Image.new("RGB", colours.size, WHITE)
    ground.paste(colours, mask=alpha)
    clear = np.count_nonzero(np.asarray(alpha) < NEARLY_OPAQUE)
    return ground, alpha if clear > STRAY_SHARE * alpha.width * alpha.height else None
