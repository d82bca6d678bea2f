"""Picture files: which are opened, what is wrong with one, and how pictures are written."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from ..atomic import write_whole
from ..errors import FewShotError

PICTURE_ENDINGS = tuple(".png .jpg .jpeg .webp .bmp .tif .tiff .gif .jfif .avif .heic .heif".split())
# Formats that Pillow (or its HEIF plugin) decodes itself. Others are not tried, whatever a file's name says: some
# are handed to other programs (EPS to Ghostscript), and many have readers that hardly anybody tests.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"heif")
AVIF_BRANDS = (b"avif", b"avis")


def open_picture(source: Path | io.BytesIO) -> ImageFile.ImageFile:
    """The picture in a file, as Pillow opens it: its head is read, its pixels are not yet.

    Raises:
        UnidentifiedImageError: it has none of `FORMATS`; OSError and others as Pillow's readers do.
        FewShotError: its format needs a library that is not installed, or it is a pipe and no file.
    """
    Image.init()
    if isinstance(source, Path):
        _prepare_reader(source)
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


def _prepare_reader(path: Path) -> None:
    """See that there is a reader for the two formats that not every Pillow has, told by the file's first bytes."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe is waited for without end
        raise FewShotError(f"{path.name} is a pipe, a socket or a device, and no file: put a picture in its place")
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] != b"ftyp":
        return
    if head[8:12] in AVIF_BRANDS and "AVIF" not in Image.OPEN:
        raise FewShotError(f"{path.name} is AVIF; pip install 'pillow>=11.3', or save it as PNG or JPEG")
    if head[8:12] in HEIF_BRANDS and "HEIF" not in Image.OPEN:
        try:
            importlib.import_module("pillow_heif").register_heif_opener()
        except ImportError:
            # Some AVIF files bear the general brand mif1, which Pillow's own reader then takes.
            if head[8:12] != b"mif1" or b"avif" not in _compatible_brands(path):
                raise FewShotError(f"{path.name} is HEIC; pip install pillow-heif, or save it as JPEG") from None


def _compatible_brands(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(min(256, int.from_bytes(file.read(4), "big")))


@contextlib.contextmanager
def naming_faults(path: Path) -> Iterator[None]:
    """What goes wrong with the picture in `path`, as FewShotError with its name."""
    try:
        yield
    except FewShotError:
        raise
    except FileNotFoundError:
        raise FewShotError(f"{path} is not there; put it back or choose other pictures") from None
    except UnidentifiedImageError:
        raise FewShotError(
            f"{path.name} is not a picture that can be read: PNG, JPEG, WebP, AVIF, HEIC, BMP, GIF and the usual kinds "
            "of TIFF are; save it again as PNG or JPEG"
        ) from None
    except Image.DecompressionBombError as error:
        raise FewShotError(f"{path.name} is too large ({error}); make it smaller") from None
    except Exception as error:  # Pillow's readers raise what they like on broken files
        raise FewShotError(f"{path.name} is damaged ({error}); save it again as PNG or JPEG") from None


def pixel_key(picture: Image.Image) -> str:
    """sha256 (hex) of the mode, the size and the bytes of the pixels."""
    head = f"{picture.mode} {picture.width}x{picture.height}\n".encode()
    return hashlib.sha256(head + picture.tobytes()).hexdigest()


def write_png(picture: Image.Image, path: Path, fast: bool = False) -> Path:
    """Write `picture` to `path` by `write_whole`, which raises FewShotError.

    `fast` takes a third of the time and some more space.
    """
    data = io.BytesIO()
    picture.save(data, "PNG", compress_level=1 if fast else 4)
    return write_whole(path, data.getvalue())
