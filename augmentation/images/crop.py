"""Pictures of any size to one size: the aspect is kept, the excess is cropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

from ...core.errors import FewShotError


@dataclass(frozen=True)
class Crop:
    """The crop of a picture by `fit_to`.

    `box` is (left, top, right, bottom) in pixels of the source. `original` (h, w), `corner` (top, left) in pixels after
    resizing and `target` (h, w) are SDXL's size conditioning (Podell et al. 2023, section 2.2).
    """

    box: tuple[float, float, float, float]
    original: tuple[int, int]
    corner: tuple[int, int]
    target: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels after per pixel before; above 1 the picture was enlarged."""
        return self.target[1] / (self.box[2] - self.box[0])


def fit_to(
    picture: Image.Image,
    mask: Image.Image | None,
    width: int,
    height: int,
    centre: Literal["centre", "mask"] = "centre",
) -> tuple[Image.Image, Image.Image | None, Crop]:
    """Resize `picture` and its mask without distortion until they cover width x height, and crop the rest.

    The crop lies in the picture's middle, or as near as it can to the middle of the mask's box; a picture without a
    mask is cropped in its middle. A mask of another size than its picture must have the picture's aspect.

    Raises:
        FewShotError: a size below 1, an unknown `centre`, a mask of another aspect.
    """
    if width < 1 or height < 1:
        raise FewShotError(f"pictures cannot be made {width} x {height}; choose a width and height of at least 1")
    if centre not in ("centre", "mask"):
        raise FewShotError(f'no crop centre {centre!r}; choose "centre" or "mask"')
    if mask is not None:
        mask = as_large(mask, picture)
    box = crop_box(picture.size, width, height, _middle(picture, mask if centre == "mask" else None))
    scale = width / (box[2] - box[0])
    crop = Crop(
        box=box,
        original=(picture.height, picture.width),
        corner=(round(box[1] * scale), round(box[0] * scale)),
        target=(height, width),
    )
    fitted = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return fitted, mask.resize((width, height), Image.Resampling.BILINEAR, box=box) if mask else None, crop


def same_aspect(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (w, h) have the same aspect but for the rounding of a pixel in the smaller one."""
    small, large = sorted((first, second))
    wide, high = small[0] * large[1], small[1] * large[0]
    return abs(wide - high) <= max(large)


def as_large(mask: Image.Image, picture: Image.Image) -> Image.Image:
    """`mask` in the size of its picture; FewShotError where it has another aspect."""
    if mask.size == picture.size:
        return mask
    if not same_aspect(mask.size, picture.size):
        raise FewShotError(f"a mask of {_size(mask)} does not fit its picture of {_size(picture)}; crop both alike")
    return mask.resize(picture.size, Image.Resampling.BILINEAR)


def _size(picture: Image.Image) -> str:
    return f"{picture.width} x {picture.height}"


def _middle(picture: Image.Image, mask: Image.Image | None) -> tuple[float, float]:
    box = mask.point([0] * 128 + [255] * 128).getbbox() if mask else None
    left, top, right, bottom = box or (0, 0, *picture.size)
    return (left + right) / 2, (top + bottom) / 2


def crop_box(
    size: tuple[int, int], width: int, height: int, middle: tuple[float, float], part: float = 1.0
) -> tuple[float, float, float, float]:
    """A box of aspect width : height inside `size` (w, h), as near to `middle` (x, y) as it can lie.

    It is the largest one times `part` (0 to 1).
    """
    shrink = part * min(size[0] / width, size[1] / height)
    wide, high = min(width * shrink, size[0]), min(height * shrink, size[1])
    left = min(max(middle[0] - wide / 2, 0.0), size[0] - wide)
    top = min(max(middle[1] - high / 2, 0.0), size[1] - high)
    return left, top, min(left + wide, size[0]), min(top + high, size[1])
