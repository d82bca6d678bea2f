"""Whether a picture's file holds all its pixels: in some cut PNG and JPEG files Pillow gives the rest grey or black."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFile

from ..errors import FewShotError
from .files import open_picture

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by PNG's colour type
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))  # Adam7
BLOCK = 1 << 20
SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # the first marker after coded pixels that is no restart
START_OF_SCAN, END = 0xDA, 0xD9
HUFFMAN = (0xC0, 0xC1, 0xC2)  # frames; the last is progressive
MORE = bytes(number * 97 % 255 for number in range(256))  # coded pixels of no meaning, without a marker


@contextlib.contextmanager
def strict_reading() -> Iterator[None]:
    """Pillow refuses cut files, whatever another program in this process has set."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def check_whole(path: Path, kind: str) -> None:
    """Raise FewShotError where the file `path` of Pillow's format `kind` lacks a part of its pixels."""
    status = path.stat()
    if kind in _CHECKS and not _is_whole(path, kind, status.st_size, status.st_mtime_ns):
        raise FewShotError(
            f"{path.name} is damaged: a part of its pixels is missing or was changed; get the file again, or take it "
            "away"
        )


@lru_cache(maxsize=4096)
def _is_whole(path: Path, kind: str, size: int, time: int) -> bool:
    """`size` and `time` tell whether the file is still the same."""
    return _CHECKS[kind](path.read_bytes())


def _png_is_whole(data: bytes) -> bool:
    """Whether the pixels' checksums are right and their rows all there."""
    at, head, found, unpack = 8, b"", 0, zlib.decompressobj()
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body, check = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if name == b"IEND":
            break
        head = body if name == b"IHDR" else head
        if name == b"IDAT":
            if len(check) == 4 and zlib.crc32(name + body).to_bytes(4, "big") != check:
                return False
            while body and not unpack.eof:
                found += len(unpack.decompress(body, BLOCK))
                body = unpack.unconsumed_tail
        at += 12 + length
    return found + len(unpack.flush()) >= _png_bytes(head)


def _png_bytes(head: bytes) -> int:
    """How many bytes the rows of a PNG have, each with one for its filter."""
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", head)
    total = 0
    for left, top, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * depth * CHANNELS[colour] // 8)) if columns > 0 and rows > 0 else 0
    return total


def _jpeg_is_whole(data: bytes) -> bool:
    """Whether the last scan has pixels for the whole picture: then what is put behind them changes nothing."""
    frame, end = _last_scan(data)
    if frame not in HUFFMAN:
        return True
    scans = data[:end]
    return _seen(scans + b"\xff\xd9", frame) == _seen(scans + MORE + b"\xff\xd9", frame)


def _last_scan(data: bytes) -> tuple[int, int]:
    """The kind of the first picture's frame, and where its coded pixels end."""
    at, frame, end = 2, 0, len(data)
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == END:
            return frame, end
        if marker == 0xFF:
            at += 1
            continue
        frame = marker if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) else frame
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == START_OF_SCAN:
            found = SCAN_END.search(data, at)
            if found is None:  # zeros behind pixels are what a download had not yet filled
                return frame, max(at, len(data.rstrip(b"\0")))
            at = end = found.start()
    return frame, end


def _seen(data: bytes, frame: int) -> bytes:
    """A JPEG's pixels, small where the averages of its blocks tell enough."""
    with open_picture(io.BytesIO(data)) as picture:
        if frame != HUFFMAN[-1]:
            picture.draft(picture.mode, (1, 1))
        return picture.tobytes()


_CHECKS = {"PNG": _png_is_whole, "JPEG": _jpeg_is_whole, "MPO": _jpeg_is_whole}
