"""From a file to pixels: 8-bit RGB and, where the file has transparency, a mask; upright, first frame, bounded."""

from __future__ import annotations

import hashlib
import importlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .atomic import write_whole
from .errors import FewShotError

PICTURE_ENDINGS = tuple(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .jfif .avif .heic .heif".split())
HEIF_ENDINGS = (".heic", ".heif")
MOST_PIXELS = 80_000_000  # larger files are reduced or refused before they are decoded
WHITE = (255, 255, 255)


def pixel_key(picture: Image.Image) -> str:
    """sha256 (hex) of the mode, the size and the bytes of the pixels."""
    head = f"{picture.mode} {picture.width}x{picture.height}\n".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()


def decode(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """Read the picture in `path`.

    Returns its RGB picture and its mask: "L", white where the file is opaque, None where all of it is. 16-bit and
    float files are scaled to 8 bits, EXIF rotation is applied, of an animation the first frame is taken.
    A JPEG with more than `MOST_PIXELS` pixels is read at a half, a quarter or an eighth of its size.
    What lies under full transparency is kept when it is a picture (a mask painted into alpha); when it is one
    flat colour (a cut-out) the subject is laid on white instead.

    Raises:
        FewShotError: the file is not there, is no picture, is damaged, or has more than `MOST_PIXELS` pixels
            (a JPEG: more than Pillow opens, some 180 million).
    """
    try:
        if path.suffix.lower() in HEIF_ENDINGS:
            _read_heif(path)
        with Image.open(path) as file:
            _reduce(file)
            _check_size(path, file.width, file.height)
            file.seek(0)
            upright = ImageOps.exif_transpose(file.copy())  # a copy of a TIFF is turned and has lost its tag
            return _split_alpha(_eight_bits(upright))
    except FewShotError:
        raise
    except FileNotFoundError:
        raise FewShotError(f"{path} is not there; put it back or choose other pictures") from None
    except UnidentifiedImageError:
        raise FewShotError(f"{path.name} is not a picture that can be read; save it again as PNG or JPEG") from None
    except Image.DecompressionBombError as error:
        raise FewShotError(f"{path.name} is too large ({error}); make it smaller") from None
    except Exception as error:  # Pillow's readers raise what they like on broken files
        raise FewShotError(f"{path.name} is damaged ({error}); save it again as PNG or JPEG") from None


def _read_heif(path: Path) -> None:
    """Teach Pillow the format of phones' cameras; FewShotError where its reader is not installed."""
    try:
        pillow_heif = importlib.import_module("pillow_heif")
    except ImportError:
        raise FewShotError(f"{path.name} is HEIC; pip install pillow-heif, or save it as JPEG") from None
    pillow_heif.register_heif_opener()


def _reduce(file: ImageFile.ImageFile) -> None:
    """Let a JPEG beyond `MOST_PIXELS` be decoded at a half, a quarter or an eighth, which takes no more memory."""
    if file.format not in ("JPEG", "MPO"):
        return
    for part in (2, 4, 8):
        if file.width * file.height <= MOST_PIXELS:
            return
        file.draft(file.mode, (file.width // part, file.height // part))


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise FewShotError(
            f"{path.name} has {width} x {height} pixels, more than {MOST_PIXELS // 10**6} million; make it smaller"
        )


def _eight_bits(picture: Image.Image) -> Image.Image:
    """`picture` in mode RGB or RGBA. Pillow clips high bit depths when it converts; here they are scaled."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = Image.fromarray(_scaled(np.asarray(picture)))
    transparent = "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    if picture.mode in ("La", "RGBa"):
        picture = picture.convert(picture.mode.upper())
    return picture.convert("RGBA" if transparent else "RGB")


def _scaled(values: np.ndarray) -> np.ndarray:
    """Grey values of any depth as uint8: integers count as 16 bits, floats as [0, 1] unless they go beyond."""
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers")
    if np.issubdtype(values.dtype, np.floating):
        top = 1.0 if values.max() <= 1 else 255.0 if values.max() <= 255 else 65535.0
    else:
        top = 65535.0
    return np.round(np.clip(values.astype(np.float64) / top, 0, 1) * 255).astype(np.uint8)


def _split_alpha(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if picture.mode == "RGB":
        return picture, None
    alpha = picture.getchannel("A")
    colours = picture.convert("RGB")
    if alpha.getextrema()[0] == 255:
        return colours, None
    hidden = np.asarray(colours)[np.asarray(alpha) == 0]
    if len(hidden) and (hidden == hidden[0]).all():
        ground = Image.new("RGB", picture.size, WHITE)
        ground.paste(colours, mask=alpha)
        colours = ground
    return colours, alpha


def decode_mask(path: Path) -> Image.Image:
    """The mask in `path` as "L": its transparency where it has some, else its brightness."""
    colours, alpha = decode(path)
    return alpha if alpha is not None else colours.convert("L")


def write_png(picture: Image.Image, path: Path, fast: bool = False) -> Path:
    """Write `picture` to `path` by `write_whole`, which raises FewShotError.

    `fast` takes a third of the time and some more space.
    """
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1 if fast else 4)
    return write_whole(path, data.getvalue())
