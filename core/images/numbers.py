"""Pictures that come as numbers of more than 8 bits: Pillow clips them when it converts; here they are scaled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

# Tags of TIFF.
BITS, MEANING, PLANES, SIGN = 258, 262, 284, 339
WHITE_IS_ZERO, IN_PLANES, UNSIGNED = 0, 2, 1


@dataclass(frozen=True)
class NumberFormat:
    """How a file's numbers are meant: of 16 bits, or of unknown range; negative; unsigned beyond Pillow's integers."""

    deep: bool
    inverted: bool = False
    unsigned: bool = False

    @classmethod
    def of(cls, file: ImageFile.ImageFile) -> NumberFormat:
        """Raises ValueError for what Pillow reads wrongly."""
        deep = file.mode.startswith("I;16") or (file.format == "PNG" and file.mode == "I")  # the latter: Pillow 10
        if file.format != "TIFF":
            return cls(deep)
        tags = file.tag_v2
        if tags.get(PLANES) == IN_PLANES and max(tags.get(BITS, (8,))) > 8 and len(file.getbands()) > 1:
            raise ValueError("a TIFF of 16 bits whose colours lie in planes")
        wide = max(tags.get(BITS, (1,))) == 32 and max(tags.get(SIGN, (UNSIGNED,))) == UNSIGNED
        return cls(deep, tags.get(MEANING) == WHITE_IS_ZERO, wide)


def is_numbers(picture: Image.Image) -> bool:
    """Whether it is grey in more than 8 bits."""
    return picture.mode == "F" or picture.mode.startswith("I")


def grey_of(picture: Image.Image, form: NumberFormat, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Numbers as grey in 8 bits, and the alpha where one number is declared transparent."""
    values = np.asarray(picture)
    key = picture.info.get("transparency")
    alpha = None if not isinstance(key, int) else Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
    if form.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    grey = _scaled(values, form.deep, notes)
    return Image.fromarray(255 - grey if form.inverted else grey), alpha


def _scaled(values: np.ndarray, deep: bool, notes: list[str]) -> np.ndarray:
    """Grey values as uint8.

    Those of 16 bits (`deep`) go from 0 to 65535. Of wider integers and of floats a file does not say what white is: it
    is the least number of whole bytes (of floats 1, 255, 65535 or the largest there is) that holds all; notes say so.
    """
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not numbers")
    low, high = float(values.min()), float(values.max())
    top = 65535.0
    if not deep:
        tops = (1, 255, 65535, high) if values.dtype.kind == "f" else (255, 65535, 2**24 - 1, 2**32 - 1)
        top = next(float(t) for t in tops if high <= t)
        notes.append(f"holds numbers from {low:g} to {high:g} without saying what white is; read as 0 to {top:g}")
    return np.round(np.clip(values.astype(np.float64) / top, 0, 1) * 255).astype(np.uint8)
