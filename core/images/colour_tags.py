"""What a file says about its colours: an ICC profile, code points (PNG's cICP, AVIF's nclx), or PNG's gAMA and cHRM."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageFile

MOST_BYTES = 16 * 2**20  # of a file's head; what tells of colours comes before the pixels
HDR_CURVES = {16: "PQ", 18: "HLG"}
BOXES_WITH_BOXES = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # and the bytes before the first box inside


@dataclass(frozen=True)
class ColourTags:
    """What a file says about its colours; None for what it does not say.

    icc: an ICC profile, b"" for one that cannot be unpacked. codes: (primaries, transfer) by ITU-T H.273.
    gamma: the exponent with which values were encoded. chromaticities: xy of white, red, green and blue.
    """

    format: str
    icc: bytes | None = None
    codes: tuple[int, int] | None = None
    gamma: float | None = None
    chromaticities: tuple[float, ...] | None = None

    @classmethod
    def of(cls, path: Path, file: ImageFile.ImageFile) -> ColourTags:
        """The tags of the file `path`, opened by Pillow as `file`."""
        info, kind = file.info, file.format or ""
        icc = (info["icc_profile"] or b"") if "icc_profile" in info else None
        if kind == "PNG":
            codes = _png_codes(path)
            is_srgb = "srgb" in info
            gamma, chroma = (None, None) if is_srgb else (info.get("gamma"), info.get("chromaticity"))
            return cls(kind, icc, codes, gamma, chroma)
        if kind in ("AVIF", "HEIF") and not icc:
            return cls(kind, icc, _primary_codes(path))
        return cls(kind, icc)

    @property
    def hdr(self) -> str:
        """The name of its HDR curve; "" where it is none."""
        return HDR_CURVES.get(self.codes[1], "") if self.codes else ""


def _png_codes(path: Path) -> tuple[int, int] | None:
    """The code points of a PNG's cICP chunk, which Pillow does not read; only RGB in full range is allowed."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"cICP" and length == 4:
                primaries, transfer, matrix, full_range = file.read(4)
                return (primaries, transfer) if matrix == 0 and full_range == 1 else None
            file.seek(length + 4, 1)
    return None


def _primary_codes(path: Path) -> tuple[int, int] | None:
    """The code points of the primary picture in an AVIF or HEIF file (ISO 23008-12)."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES)
    boxes = list(_boxes(data, 0, len(data)))
    by_name = {name: data[start:end] for name, start, end in reversed(boxes)}
    properties = [(name, data[start:end]) for name, start, end in boxes[_first(boxes, b"ipco") + 1 :]]
    mine = _properties_of_primary(by_name.get(b"pitm", b""), by_name.get(b"ipma", b""))
    for number, (name, body) in enumerate(properties, 1):
        if name == b"colr" and body[:4] == b"nclx" and len(body) >= 8 and (not mine or number in mine):
            return struct.unpack(">HH", body[4:8])
    return None


def _first(boxes: list[tuple[bytes, int, int]], name: bytes) -> int:
    return next((number for number, box in enumerate(boxes) if box[0] == name), len(boxes))


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end of its body) of each box, those that hold boxes before what they hold."""
    while start + 8 <= end:
        size, name = struct.unpack(">I4s", data[start : start + 8])
        body = start + 8
        if size == 1:
            size, body = int.from_bytes(data[body : body + 8], "big"), body + 8
        stop = end if size == 0 else start + size
        if stop < body or stop > end:
            return
        yield name, body, stop
        if name in BOXES_WITH_BOXES:
            yield from _boxes(data, body + BOXES_WITH_BOXES[name], stop)
        start = stop


def _properties_of_primary(primary: bytes, associations: bytes) -> set[int]:
    """The numbers, from 1, of the properties of the primary picture, out of the boxes pitm and ipma."""
    if len(primary) < 6 or len(associations) < 8:
        return set()
    wanted = int.from_bytes(primary[4:], "big")
    wide_id, wide_index = associations[0] >= 1, associations[3] & 1
    count, at = int.from_bytes(associations[4:8], "big"), 8
    id_size, index_size = (4 if wide_id else 2), (2 if wide_index else 1)
    for _ in range(count):
        item = int.from_bytes(associations[at : at + id_size], "big")
        many = associations[at + id_size : at + id_size + 1]
        at += id_size + 1
        if not many:
            return set()
        places = [at + index_size * number for number in range(many[0])]
        if item == wanted:
            mask = 0x7FFF if wide_index else 0x7F
            return {int.from_bytes(associations[place : place + index_size], "big") & mask for place in places}
        at += index_size * many[0]
    return set()
