"""From files to pixels: the one way in which picture files are opened, decoded and written."""

from .decode import MOST_PIXELS, decode, decode_mask
from .files import PICTURE_ENDINGS, open_picture, pixel_key, write_png
from .transparency import on_white

__all__ = [
    "MOST_PIXELS", "PICTURE_ENDINGS", "decode", "decode_mask", "on_white", "open_picture", "pixel_key", "write_png",
]  # fmt: skip
