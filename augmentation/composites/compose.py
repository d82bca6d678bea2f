"""Cut-outs laid on a background: sizes and places drawn at random, soft edges, and exact masks of what stays visible.

Everything is measured in pixels of the composite, a square of `size`; a box is (left, top, right, bottom).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from ...core.errors import FewShotError
from ...core.values import Sample
from ..images.crop import as_large
from ..images.load import load_mask, load_picture
from ..masks.clean import mask_problem

TRIES = 10
INSIDE = 0.8  # of a cut-out's pixels lie within the composite
VISIBLE = 0.6  # of them stay visible, whatever lies in front
ENLARGED = 1.3  # at most, else the blur of enlarging is learned as the subject's look
FEATHER = 1.5  # pixels of soft edge at 512
KEPT_LARGER = 2.0  # cut-outs are kept at most this much larger than a composite
HALF = 128
IntBox = tuple[int, int, int, int]


@dataclass(frozen=True)
class CutOut:
    """A subject without its surroundings: RGB pixels in its tight box, and its mask there ("L", 0 or 255).

    `side` is the longer edge of the box in the picture it comes from, before it was made smaller here.
    """

    colours: Image.Image = field(compare=False)
    shape: Image.Image = field(compare=False)
    sample: Sample
    side: int


@dataclass(frozen=True)
class Layer:
    """A cut-out in its place: RGB pixels, opacity ("L"), and mask (h, w) bool, with the corner at `box`'s left, top."""

    cut: CutOut
    colours: Image.Image
    alpha: Image.Image
    mask: np.ndarray
    box: IntBox

    @property
    def side(self) -> int:
        return max(self.mask.shape)


@dataclass(frozen=True)
class Composite:
    """The picture, its layers from back to front, and the visible mask (size, size) bool of each."""

    picture: Image.Image
    layers: tuple[Layer, ...]
    masks: tuple[np.ndarray, ...]


def cut_out(sample: Sample, size: int) -> CutOut:
    """What the mask of `sample` shows, for composites of `size` pixels.

    Raises:
        FewShotError: there is no mask, it has another aspect than its picture, or it covers next to nothing or nearly
            all; the file is gone.
    """
    name = sample.image.path.name
    if sample.mask is None:
        raise FewShotError(f"{name} has no mask")
    picture = load_picture(sample.image)
    try:
        mask = as_large(load_mask(sample.mask), picture)
    except FewShotError as error:
        raise FewShotError(f"{name}: {error}") from None
    shape = mask.point([0] * HALF + [255] * HALF)
    if wrong := mask_problem(np.asarray(shape) > 0):
        raise FewShotError(f"{name}: {wrong}")
    box = shape.getbbox()
    assert box is not None
    side, most = max(box[2] - box[0], box[3] - box[1]), round(KEPT_LARGER * size)
    colours, shape = picture.crop(box), shape.crop(box)
    if side > most:
        smaller = _scaled(colours.size, most / side)
        colours, shape = (part.resize(smaller, Image.Resampling.BOX) for part in (colours, shape))
    return CutOut(_spread(colours, shape), _binary(shape), sample, side)


def _spread(colours: Image.Image, shape: Image.Image) -> Image.Image:
    """`colours` with those of the subject's rim beyond it, so that no old background mixes into soft edges."""
    inside = np.asarray(shape) == 255
    if inside.all() or not inside.any():
        return colours
    nearest = np.asarray(ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True))
    return Image.fromarray(np.asarray(colours)[nearest[0], nearest[1]])


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _binary(shape: Image.Image) -> Image.Image:
    """Black and white; of a shape too thin to fill half a pixel anywhere, the pixels it fills most."""
    least = max(1, min(HALF, int(np.asarray(shape).max())))
    return shape.point([0] * least + [255] * (256 - least))


def lay(cut: CutOut, box: IntBox, feather: float, flip: bool = False) -> Layer:
    """`cut` resized to `box`, its picture and mask mirrored together if `flip`.

    The mask is exactly where opacity is at least one half. The edge softens over `feather` pixels inwards, and outwards
    by the pixel that resizing blurs.
    """
    size = max(1, box[2] - box[0]), max(1, box[3] - box[1])
    colours = cut.colours.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    soft = cut.shape.resize(size, Image.Resampling.BILINEAR)
    if flip:
        colours, soft = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (colours, soft))
    mask = np.asarray(_binary(soft)) > 0
    inner = np.maximum(np.asarray(_blurred(soft, feather)), HALF)
    alpha = np.where(mask, inner, np.minimum(np.asarray(soft), HALF - 1)).astype(np.uint8)
    return Layer(cut, colours, Image.fromarray(alpha), mask, (box[0], box[1], box[0] + size[0], box[1] + size[1]))


def _blurred(soft: Image.Image, radius: float) -> Image.Image:
    """`soft` blurred as if nothing of it lay beyond its box, where the mask ends."""
    if radius <= 0:
        return soft
    margin = int(np.ceil(3 * radius))
    wide = Image.new("L", (soft.width + 2 * margin, soft.height + 2 * margin))
    wide.paste(soft, (margin, margin))
    blurred = wide.filter(ImageFilter.GaussianBlur(radius))
    return blurred.crop((margin, margin, margin + soft.width, margin + soft.height))


def compose(ground: Image.Image, layers: Sequence[Layer]) -> Composite:
    """`layers` from back to front on `ground`; each mask loses what a later one covers."""
    picture, size = ground.copy(), ground.size
    masks: list[np.ndarray] = []
    for layer in layers:
        picture.paste(layer.colours, layer.box[:2], layer.alpha)
        whole = on_canvas(layer, size)
        masks = [mask & ~whole for mask in masks] + [whole]
    return Composite(picture, tuple(layers), tuple(masks))


def on_canvas(layer: Layer, size: tuple[int, int]) -> np.ndarray:
    """The layer's mask (h, w) bool within a composite of `size` (w, h)."""
    whole = np.zeros(size[::-1], bool)
    left, top, right, bottom = layer.box
    inside = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part = layer.mask[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left]
        whole[inside[1] : inside[3], inside[0] : inside[2]] = part
    return whole


def arrange(
    cuts: Sequence[CutOut],
    size: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
    flip: bool = False,
) -> list[Layer]:
    """Layers of `cuts` in a random order, sizes and places, such that enough of each can be seen.

    Sizes are of the longer edge, uniform in `scales` times `size`. At least `INSIDE` of each mask lies within the
    composite and at least `VISIBLE` of it stays visible; after ten attempts the last of `cuts` is left out, and one
    alone is laid in the middle.
    """
    for count in range(len(cuts), 0, -1):
        for _ in range(TRIES):
            order = [cuts[int(number)] for number in rng.permutation(count)]
            layers = [_thrown(cut, size, scales, rng, flip) for cut in order]
            if all(seen >= VISIBLE for seen in visible(layers, size)) and all(
                seen >= INSIDE for layer in layers for seen in visible([layer], size)
            ):
                return layers
    return [_centred(cuts[0], size, scales[0])]


def visible(layers: Sequence[Layer], size: int) -> list[float]:
    """The share of each layer's mask that lies within the composite and is not covered."""
    covered = np.zeros((size, size), bool)
    shares = []
    for layer in reversed(layers):
        whole = on_canvas(layer, (size, size))
        shares.append(float((whole & ~covered).sum() / layer.mask.sum()))
        covered |= whole
    return shares[::-1]


def _thrown(cut: CutOut, size: int, scales: tuple[float, float], rng: np.random.Generator, flip: bool) -> Layer:
    wide, high = _target(cut, size, float(rng.uniform(*scales)))
    over = 1 - INSIDE
    left = _between(rng, -over * wide, size - INSIDE * wide)
    top = _between(rng, -over * high, size - INSIDE * high)
    turned = flip and bool(rng.random() < 0.5)
    return lay(cut, (left, top, left + wide, top + high), FEATHER * size / 512, turned)


def _between(rng: np.random.Generator, low: float, high: float) -> int:
    return round(float(rng.uniform(min(low, high), max(low, high))))


def _centred(cut: CutOut, size: int, scale: float) -> Layer:
    wide, high = _target(cut, size, min(scale, 1.0))
    left, top = (size - wide) // 2, (size - high) // 2
    return lay(cut, (left, top, left + wide, top + high), FEATHER * size / 512)


def _target(cut: CutOut, size: int, scale: float) -> tuple[int, int]:
    """Width and height such that the longer edge is `scale` times `size`, but not enlarged beyond `ENLARGED`."""
    side = min(scale * size, ENLARGED * cut.side)
    return _scaled(cut.colours.size, side / max(cut.colours.size))
