"""An invisible mark in pictures, and its detector: additive spread spectrum (Cox et al. 1997) on a repeated tile.

A fixed pseudo-random tile of middle frequencies is added to the brightness, about 40 dB below the picture. The detector
levels the picture, folds it onto one tile and looks for the tile at every shift at once, so that cropping does no harm
and mild JPEG little; resizing, rotating and heavy filtering remove the mark. It says "sampled by this pack" and no
more: it is no signature, and whoever knows it can remove or forge it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from ..core.errors import FewShotError

TILE = 32  # pixels
STRENGTH = 2.5  # of 255 levels, standard deviation
BAND = (0.10, 0.34)  # cycles a pixel: coarser is visible, finer does not survive JPEG
KEY = 20231205
THRESHOLD = 5.2  # standard deviations of the best shift's correlation; see `score`
LEVELLED = 2.0  # pixels: what is smoother belongs to the picture
NEIGHBOURS = 4.0  # pixels over which contrast is evened out


@cache
def _band() -> np.ndarray:
    frequencies = np.fft.fftfreq(TILE)
    radius = np.hypot(frequencies[:, None], frequencies[None])
    return (radius >= BAND[0]) & (radius <= BAND[1])


@cache
def _tile() -> np.ndarray:
    """(TILE, TILE), mean 0 and deviation 1, of the band's frequencies in equal strength."""
    noise = np.random.Generator(np.random.PCG64(KEY)).standard_normal((TILE, TILE))
    spectrum = np.fft.fft2(noise)
    tile = np.fft.ifft2(np.where(_band(), spectrum / np.abs(spectrum), 0)).real
    return tile / tile.std()


def add_watermark(picture: Image.Image, strength: float = STRENGTH) -> Image.Image:
    """The picture with the mark in it, RGB. FewShotError where it is smaller than two tiles."""
    if min(picture.size) < 2 * TILE:
        raise FewShotError(
            f"a picture of {picture.width} x {picture.height} is too small for the watermark; draw at least "
            f"{2 * TILE} x {2 * TILE} or turn it off"
        )
    values = np.asarray(picture.convert("RGB"), np.float32)
    rows, columns = -(-values.shape[0] // TILE), -(-values.shape[1] // TILE)
    pattern = np.tile(_tile(), (rows, columns))[: values.shape[0], : values.shape[1], None]
    return Image.fromarray((values + strength * pattern).round().clip(0, 255).astype(np.uint8))


def score(picture: Image.Image) -> float:
    """How far the best shift's correlation with the tile stands above all shifts', in their standard deviations.

    Pictures without the mark lie about 3 to 4; those with it far above. 0 for pictures smaller than a tile.
    """
    if min(picture.size) < TILE:
        return 0.0
    values = np.asarray(picture.convert("RGB"), np.float64) @ (0.299, 0.587, 0.114)
    fine = values - gaussian_filter(values, LEVELLED)
    fine /= np.sqrt(gaussian_filter(fine**2, NEIGHBOURS)) + 1
    spectrum = np.fft.fft2(_folded(fine.clip(-2, 2)))
    size = np.abs(spectrum)
    correlation = np.where(_band() & (size > 0), spectrum / np.maximum(size, 1e-12) * np.conj(np.fft.fft2(_tile())), 0)
    shifts = np.fft.ifft2(correlation).real
    return float(shifts.max() / max(shifts.std(), 1e-12))


def has_watermark(picture: Image.Image) -> bool:
    """Whether the picture carries the mark."""
    return score(picture) > THRESHOLD


def _folded(values: np.ndarray) -> np.ndarray:
    """(TILE, TILE): the mean over all repetitions of the tile."""
    rows, columns = (np.arange(size) % TILE for size in values.shape)
    across = np.zeros((TILE, values.shape[1]))
    np.add.at(across, rows, values)
    total = np.zeros((TILE, TILE))
    np.add.at(total.T, columns, across.T)
    counts = np.bincount(rows, minlength=TILE)[:, None] * np.bincount(columns, minlength=TILE)[None]
    return total / counts
