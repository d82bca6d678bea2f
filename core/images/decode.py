"""From a file to pixels as a person sees them: upright 8-bit sRGB on white, and a mask where it has transparency."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageFile, ImageOps

from ..errors import FewShotError
from .colour import to_srgb
from .colour_tags import ColourTags
from .files import naming_faults, open_picture
from .numbers import NumberFormat, grey_of, is_numbers
from .transparency import is_clear, on_white, scale_colour_key, split_alpha
from .whole import check_whole, strict_reading

MOST_PIXELS = 80_000_000  # larger files are reduced or refused before they are decoded


def decode(path: Path, notes: list[str] | None = None) -> tuple[Image.Image, Image.Image | None]:
    """Read the picture in `path` as a browser shows it on a white page.

    Returns its RGB picture and its mask: "L", white where the file is opaque, None where (nearly) all of it is.
    Colours are converted to sRGB by the file's profile, 16-bit and float files are scaled to 8 bits, EXIF rotation is
    applied, of an animation the first frame is taken, and transparent parts are laid on white.
    A JPEG with more than `MOST_PIXELS` pixels is read at a half, a quarter or an eighth of its size.

    Args:
        notes: what had to be guessed or left out is appended here in words.

    Raises:
        FewShotError: the file is not there, is no picture, is damaged, has more than `MOST_PIXELS` pixels
            (a JPEG: more than Pillow opens, some 180 million), is transparent all over, or is HDR.
    """
    found: list[str] = []
    with naming_faults(path), strict_reading():
        with open_picture(path) as file:
            _reduce(file)
            _check_size(path, file.width, file.height)
            file.seek(1 if getattr(file, "default_image", False) else 0)  # a PNG's picture for those who show no motion
            if _moves(file):
                found.append("moves; its first frame is used")
            tags = ColourTags.of(path, file)
            if tags.hdr:
                raise FewShotError(
                    f"{path.name} is HDR ({tags.hdr}), which every screen shows differently; save it as sRGB"
                )
            numbers = NumberFormat.of(file)
            scale_colour_key(file, _raw_mode(file))
            stored = file.copy()
            check_whole(path, tags.format)
        colours, alpha = _parts(_upright(stored, found), tags.format, numbers, found)
        picture = to_srgb(colours, tags, found)
        picture.info = {}  # else a profile that was applied would be written into copies, and be applied again
        if alpha is not None and is_clear(alpha):
            raise FewShotError(f"{path.name} is transparent all over; save it again without transparency")
    if notes is not None:
        notes.extend(f"{path.name} {note}" for note in found)
    return (picture, None) if alpha is None else on_white(picture, alpha)


def decode_mask(path: Path, notes: list[str] | None = None) -> Image.Image:
    """The mask in `path` as "L": its transparency where it has some, else its brightness."""
    colours, alpha = decode(path, notes)
    return alpha if alpha is not None else colours.convert("L")


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


def _moves(file: ImageFile.ImageFile) -> bool:
    """Whether it is an animation; the further pictures of a MPO file are previews, those of TIFF are its pages."""
    try:
        return file.format in ("GIF", "PNG", "WEBP", "AVIF") and bool(getattr(file, "is_animated", False))
    except Exception:  # a GIF whose second frame is broken; the first may be whole
        return False


def _raw_mode(file: ImageFile.ImageFile) -> str:
    """How Pillow's reader of PNG finds the pixels in the file, such as "RGB;16B"."""
    how = file.tile[0][3] if file.tile else ""
    return how if isinstance(how, str) else ""


def _upright(picture: Image.Image, notes: list[str]) -> Image.Image:
    """`picture` turned as its EXIF says; a copy of a file, since that of a TIFF is turned and has lost its tag."""
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # what is in EXIF is not needed to see the picture
        notes.append(f"has damaged EXIF ({error}); it is used as it is stored, without rotation")
        return picture


def _parts(
    picture: Image.Image, file_format: str, numbers: NumberFormat, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Colours in 8 bits, and alpha."""
    if is_numbers(picture):
        return grey_of(picture, numbers, notes)
    colours, alpha = split_alpha(picture)
    if file_format == "BMP" and alpha is not None and alpha.getextrema() == (0, 0):
        alpha = None  # many programs leave the fourth byte of a BMP's pixels empty
    return colours, alpha
