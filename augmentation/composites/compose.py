"""Cut-outs pasted on a background: random sizes and positions, soft edges, and exact masks of the visible parts.

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

MAX_ATTEMPTS = 10
MIN_INSIDE = 0.8  # share of a cut-out's pixels within the composite
MIN_VISIBLE = 0.6  # share of them that is not covered
MAX_ENLARGEMENT = 1.3  # beyond it the blur of upscaling is learned as part of the subject
FEATHER = 1.5  # pixels of soft edge at 512
MAX_OVERSIZE = 2.0  # cut-outs are stored at most this much larger than a composite
MASK_THRESHOLD = 128
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
class CompositeLayer:
    """A placed cut-out: RGB pixels, opacity ("L"), and mask (h, w) bool, with the corner at `box`'s left, top."""

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
    layers: tuple[CompositeLayer, ...]
    masks: tuple[np.ndarray, ...]


def cut_out(sample: Sample, size: int) -> CutOut:
    """The masked subject of `sample`, for composites of `size` pixels.

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
    shape = mask.point([0] * MASK_THRESHOLD + [255] * MASK_THRESHOLD)
    if problem := mask_problem(np.asarray(shape) > 0):
        raise FewShotError(f"{name}: {problem}")
    box = shape.getbbox()
    assert box is not None
    side, most = max(box[2] - box[0], box[3] - box[1]), round(MAX_OVERSIZE * size)
    colours, shape = picture.crop(box), shape.crop(box)
    if side > most:
        smaller = _scaled(colours.size, most / side)
        colours, shape = (part.resize(smaller, Image.Resampling.BOX) for part in (colours, shape))
    return CutOut(_extend_colours(colours, shape), _binarise(shape), sample, side)


def _extend_colours(colours: Image.Image, shape: Image.Image) -> Image.Image:
    """`colours` with the subject's edge extended outwards, so that no old background mixes into soft edges."""
    inside = np.asarray(shape) == 255
    if inside.all() or not inside.any():
        return colours
    nearest = np.asarray(ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True))
    return Image.fromarray(np.asarray(colours)[nearest[0], nearest[1]])


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _binarise(shape: Image.Image) -> Image.Image:
    """0 or 255; of a shape too thin to fill half a pixel anywhere, the pixels it fills most."""
    least = max(1, min(MASK_THRESHOLD, int(np.asarray(shape).max())))
    return shape.point([0] * least + [255] * (256 - least))


def place_cut_out(cut: CutOut, box: IntBox, feather: float, flip: bool = False) -> CompositeLayer:
    """`cut` resized to `box`, its picture and mask mirrored together if `flip`.

    The mask is exactly where opacity is at least one half. The edge softens over `feather` pixels inwards, and outwards
    by the pixel that resizing blurs.
    """
    size = max(1, box[2] - box[0]), max(1, box[3] - box[1])
    colours = cut.colours.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    soft = cut.shape.resize(size, Image.Resampling.BILINEAR)
    if flip:
        colours, soft = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (colours, soft))
    mask = np.asarray(_binarise(soft)) > 0
    inner = np.maximum(np.asarray(_blurred(soft, feather)), MASK_THRESHOLD)
    alpha = np.where(mask, inner, np.minimum(np.asarray(soft), MASK_THRESHOLD - 1)).astype(np.uint8)
    return CompositeLayer(
        cut, colours, Image.fromarray(alpha), mask, (box[0], box[1], box[0] + size[0], box[1] + size[1])
    )


def _blurred(soft: Image.Image, radius: float) -> Image.Image:
    """`soft` blurred with zeros beyond its box, where the mask ends."""
    if radius <= 0:
        return soft
    margin = int(np.ceil(3 * radius))
    wide = Image.new("L", (soft.width + 2 * margin, soft.height + 2 * margin))
    wide.paste(soft, (margin, margin))
    blurred = wide.filter(ImageFilter.GaussianBlur(radius))
    return blurred.crop((margin, margin, margin + soft.width, margin + soft.height))


def compose(background: Image.Image, layers: Sequence[CompositeLayer]) -> Composite:
    """`layers` from back to front on `background`; each mask loses what a later one covers."""
    picture, size = background.copy(), background.size
    masks: list[np.ndarray] = []
    for layer in layers:
        picture.paste(layer.colours, layer.box[:2], layer.alpha)
        canvas_mask = on_canvas(layer, size)
        masks = [mask & ~canvas_mask for mask in masks] + [canvas_mask]
    return Composite(picture, tuple(layers), tuple(masks))


def on_canvas(layer: CompositeLayer, size: tuple[int, int]) -> np.ndarray:
    """The layer's mask (h, w) bool within a composite of `size` (w, h)."""
    canvas_mask = np.zeros(size[::-1], bool)
    left, top, right, bottom = layer.box
    inside = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part = layer.mask[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left]
        canvas_mask[inside[1] : inside[3], inside[0] : inside[2]] = part
    return canvas_mask


def arrange(
    cuts: Sequence[CutOut],
    size: int,
    scales: tuple[float, float],
    rng: np.random.Generator,
    flip: bool = False,
) -> list[CompositeLayer]:
    """Layers of `cuts` in random order, sizes and positions, such that enough of each is visible.

    Sizes are of the longer edge, uniform in `scales` times `size`. At least `MIN_INSIDE` of each mask lies within the
    composite and at least `MIN_VISIBLE` of it stays visible; after ten attempts the last of `cuts` is dropped, and a
    single one is placed in the centre.
    """
    for count in range(len(cuts), 0, -1):
        for _ in range(MAX_ATTEMPTS):
            order = [cuts[int(number)] for number in rng.permutation(count)]
            layers = [_random_layer(cut, size, scales, rng, flip) for cut in order]
            if all(share >= MIN_VISIBLE for share in visible(layers, size)) and all(
                share >= MIN_INSIDE for layer in layers for share in visible([layer], size)
            ):
                return layers
    return [_centred(cuts[0], size, scales[0])]


def visible(layers: Sequence[CompositeLayer], size: int) -> list[float]:
    """The share of each layer's mask that lies within the composite and is not covered."""
    covered = np.zeros((size, size), bool)
    shares = []
    for layer in reversed(layers):
        canvas_mask = on_canvas(layer, (size, size))
        shares.append(float((canvas_mask & ~covered).sum() / layer.mask.sum()))
        covered |= canvas_mask
    return shares[::-1]


def _random_layer(
    cut: CutOut, size: int, scales: tuple[float, float], rng: np.random.Generator, flip: bool
) -> CompositeLayer:
    wide, high = _target(cut, size, float(rng.uniform(*scales)))
    over = 1 - MIN_INSIDE
    left = _uniform(rng, -over * wide, size - MIN_INSIDE * wide)
    top = _uniform(rng, -over * high, size - MIN_INSIDE * high)
    turned = flip and bool(rng.random() < 0.5)
    return place_cut_out(cut, (left, top, left + wide, top + high), FEATHER * size / 512, turned)


def _uniform(rng: np.random.Generator, low: float, high: float) -> int:
    return round(float(rng.uniform(min(low, high), max(low, high))))


def _centred(cut: CutOut, size: int, scale: float) -> CompositeLayer:
    wide, high = _target(cut, size, min(scale, 1.0))
    left, top = (size - wide) // 2, (size - high) // 2
    return place_cut_out(cut, (left, top, left + wide, top + high), FEATHER * size / 512)


def _target(cut: CutOut, size: int, scale: float) -> tuple[int, int]:
    """Width and height such that the longer edge is `scale` times `size`, but not enlarged beyond `MAX_ENLARGEMENT`."""
    side = min(scale * size, MAX_ENLARGEMENT * cut.side)
    return _scaled(cut.colours.size, side / max(cut.colours.size))
