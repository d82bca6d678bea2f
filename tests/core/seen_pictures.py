"""Small picture files of every mode, profile, alpha and rotation, made here, for comparing decoders."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageCms

WIDE, HIGH = 48, 32
# Colorants (X, Y, Z of red, green, blue under D50) and the curve's exponent; None is sRGB's curve.
SPACES = {
    "p3": ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407), None),
    "adobe": ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457), 2.19921875),
    "prophoto": ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491), 1.8),
    "swapped": ((0.38515, 0.71687, 0.09708), (0.43607, 0.22249, 0.01392), (0.14307, 0.06061, 0.71410), None),
}  # fmt: skip


def scene(wide: int = WIDE, high: int = HIGH) -> Image.Image:
    """Smooth, in strong colours, different in each corner: compression keeps it, and turns and profiles show."""
    down, along = np.mgrid[0:high, 0:wide] / np.array([high - 1, wide - 1]).reshape(2, 1, 1)
    values = np.stack([255 * along, 40 + 200 * down, 230 - 120 * along - 110 * down], -1)
    return Image.fromarray(np.round(values).astype(np.uint8))


def disc(soft: float = 3.0) -> Image.Image:
    """An alpha: opaque in the middle, clear outside, with an edge of `soft` pixels."""
    down, along = np.mgrid[0:HIGH, 0:WIDE]
    distance = np.hypot(down - HIGH / 2, along - WIDE / 2)
    return Image.fromarray((np.clip((12 - distance) / soft + 0.5, 0, 1) * 255).round().astype(np.uint8))


def tags_of(profile: bytes) -> dict[bytes, tuple[int, int]]:
    count = struct.unpack(">I", profile[128:132])[0]
    entries = (struct.unpack(">4sII", profile[132 + 12 * n : 144 + 12 * n]) for n in range(count))
    return {name: (offset, size) for name, offset, size in entries}


def rgb_profile(space: str) -> bytes:
    """LittleCMS's own sRGB profile with the colorants and curve of another space written over."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    *colorants, exponent = SPACES[space]
    tags = tags_of(profile)
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True):
        start = tags[name][0] + 8
        profile[start : start + 12] = struct.pack(">3i", *(round(v * 65536) for v in xyz))
    if exponent is not None:
        for name in (b"rTRC", b"gTRC", b"bTRC"):
            start, size = tags[name]
            profile[start : start + size] = struct.pack(">4sIHHi", b"para", 0, 0, 0, round(exponent * 65536)).ljust(
                size, b"\0"
            )
    return bytes(profile)


def profile_of(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of version 2.4 from its tags."""
    places, body = b"", b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        places += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"none", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061)  # D50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + places + body


def _text(words: str) -> bytes:
    return b"desc" + struct.pack(">II", 0, len(words) + 1) + words.encode() + b"\0" + bytes(78)


WHITE_POINT = b"XYZ " + struct.pack(">I3i", 0, 63190, 65536, 54061)


def grey_profile(exponent: float) -> bytes:
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(exponent * 256))
    tags = {b"desc": _text("grey"), b"cprt": b"text\0\0\0\0-\0", b"wtpt": WHITE_POINT, b"kTRC": curve}
    return profile_of(b"GRAY", b"XYZ ", b"mntr", tags)


def _table(inputs: int, colours: Callable[[np.ndarray], np.ndarray], grid: int = 5) -> bytes:
    """A table of 8 bits (mft1) from device values to Lab."""
    axes = np.stack(np.meshgrid(*[np.linspace(0, 1, grid)] * inputs, indexing="ij"), -1).reshape(-1, inputs)
    lab = colours(axes)
    coded = np.stack([lab[:, 0] / 100 * 255, lab[:, 1] + 128, lab[:, 2] + 128], -1).round()
    head = b"mft1" + struct.pack(">IBBBB9i", 0, inputs, 3, grid, 0, *(65536 * v for v in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    line = bytes(range(256))
    return head + line * inputs + np.clip(coded, 0, 255).astype(np.uint8).tobytes() + line * 3


def _inks(axes: np.ndarray, black: float, shift: float) -> np.ndarray:
    """Plausible inks: the paper at L 95, full black at `black`; `shift` moves hues, to tell two tables apart."""
    cyan, magenta, yellow, key = axes.T
    light = (95 - black) * (1 - 0.4 * cyan) * (1 - 0.5 * magenta) * (1 - 0.1 * yellow) * (1 - key) + black
    a = (-40 * cyan + 70 * magenta - 5 * yellow) * (1 - key) + shift
    b = (-45 * cyan - 5 * magenta + 85 * yellow) * (1 - key) - shift
    return np.stack([light, a, b], -1)


def cmyk_profile() -> bytes:
    """A printer's profile whose table for perceptual intent differs visibly from that for colorimetric intent."""
    tags = {
        b"desc": _text("inks"), b"cprt": b"text\0\0\0\0-\0", b"wtpt": WHITE_POINT,
        b"A2B0": _table(4, lambda axes: _inks(axes, 12, 0)), b"A2B1": _table(4, lambda axes: _inks(axes, 25, 14)),
    }  # fmt: skip
    return profile_of(b"CMYK", b"Lab ", b"prtr", tags)


def table_profile() -> bytes:
    """A scanner's profile: RGB by a table."""

    def colours(axes: np.ndarray) -> np.ndarray:
        red, green, blue = axes.T
        light = 20 + 75 * (0.25 * red + 0.65 * green + 0.1 * blue)
        return np.stack([light, 35 * (red - green), 30 * (0.5 * red + 0.5 * green - blue)], -1)

    tags = {b"desc": _text("scan"), b"cprt": b"text\0\0\0\0-\0", b"wtpt": WHITE_POINT, b"A2B0": _table(3, colours, 9)}
    return profile_of(b"RGB ", b"Lab ", b"scnr", tags)


# ------------------------------------------------------------------------------------------------------------ files


def saved(picture: Image.Image, kind: str = "PNG", **how) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **how)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with chunks put behind its head (33 bytes)."""
    return png[:33] + b"".join(chunk(name, data) for name, data in chunks) + png[33:]


def raw_png(values: np.ndarray, kind: int, bits: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of raw rows: kind 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA; bits 1, 2, 4, 8 or 16."""
    high, wide = values.shape[:2]
    rows = values.reshape(high, -1)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        places = np.arange(bits - 1, -1, -1)
        lines = [np.packbits((row[:, None] >> places & 1).astype(np.uint8).ravel()).tobytes() for row in rows]
    body = zlib.compress(b"".join(b"\0" + line for line in lines))
    head = struct.pack(">IIBBBBB", wide, high, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", head), *chunks, (b"IDAT", body), (b"IEND", b""))
    )


def with_nclx(avif: bytes, primaries: int, transfer: int) -> bytes:
    """An AVIF file whose colour box names other primaries and another transfer curve."""
    at = avif.index(b"colrnclx") + 8
    return avif[:at] + struct.pack(">HH", primaries, transfer) + avif[at + 4 :]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
