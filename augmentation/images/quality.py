"""Quality checks of pictures: duplicates and blur; and face detection for crops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy import fft, ndimage

from ...core.errors import FewShotError

# Pictures that are closer are duplicates: differing bits of 63, mean difference of thumbnails in [0, 1], difference of
# the logarithms of width by height.
MAX_HASH_DISTANCE, MAX_COLOUR_DISTANCE, MAX_ASPECT_DISTANCE = 8, 0.05, 0.1
# A photograph's sharpest sixteenth is above 1000; blurred over 2 pixels of 512 it is at 5 to 30.
MIN_SHARPNESS = 30.0
MAX_EDGE = 512  # pixels of the longer edge at which sharpness is measured
MIN_SIDE = 8  # pixels of the shorter side below which nothing can be seen in a picture
MIN_SHARE_SEEN = 1 / 3  # of a picture within the largest square, which training sees
Box = tuple[int, int, int, int]


class ImageFingerprint:
    """Identifies a picture across resizing and recompression.

    The perceptual hash is the sign of the 8 x 8 lowest frequencies of the cosine transform of 32 x 32 grey values
    against their median (pHash: Zauner 2010). It ignores colour, so colour thumbnails are compared as well.
    """

    def __init__(self, picture: Image.Image):
        grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
        frequencies = np.asarray(fft.dctn(grey, norm="ortho"))[:8, :8].round(6).ravel()
        self.bits = frequencies[1:] > np.median(frequencies[1:])
        self.aspect = math.log(picture.width / picture.height)
        small = picture.convert("RGB").resize((16, 16), Image.Resampling.BOX)
        self.colours = np.asarray(small, np.float64) / 255

    def same(self, other: ImageFingerprint) -> bool:
        """Whether both are most likely the same picture."""
        if abs(self.aspect - other.aspect) > MAX_ASPECT_DISTANCE:
            return False
        near = float(np.abs(self.colours - other.colours).mean()) <= MAX_COLOUR_DISTANCE
        return near and int((self.bits != other.bits).sum()) <= MAX_HASH_DISTANCE


def shape_notes(name: str, size: tuple[int, int]) -> list[str]:
    """What is wrong with the size (w, h) of a picture: too small for a subject, or so long that little is seen."""
    shorter, longer = sorted(size)
    found = []
    if shorter < MIN_SIDE:
        found.append("too few to show a subject; leave it out")
    if shorter / longer < MIN_SHARE_SEEN:
        found.append(f"training sees a square of it, {shorter / longer:.1%}; crop it to the subject")
    return [f"{name} has {size[0]} x {size[1]} pixels; {'; '.join(found)}"] if found else []


def sharpness(picture: Image.Image) -> float:
    """The variance of the Laplacian of grey values (0 to 255) in the sharpest of sixteen parts.

    Larger pictures are first reduced to `MAX_EDGE` pixels. One sharp part is enough: a background may be out of focus.
    """
    scale = min(1.0, MAX_EDGE / max(picture.size))
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    grey = picture.convert("L").resize(size, Image.Resampling.LANCZOS) if scale < 1 else picture.convert("L")
    edges = ndimage.laplace(np.asarray(grey, np.float32))
    parts = [part for row in np.array_split(edges, 4) for part in np.array_split(row, 4, axis=1)]
    return max(float(part.var()) for part in parts if part.size)


def face_finder() -> Callable[[Image.Image], Box | None]:
    """Finds the largest frontal face (left, top, right, bottom) by scikit-image's cascade of local binary patterns.

    Raises:
        FewShotError: scikit-image is not installed.
    """
    try:
        from skimage.data import lbp_frontal_face_cascade_filename
        from skimage.feature import Cascade
    except ImportError:
        raise FewShotError("faces are found by scikit-image: pip install scikit-image, or crop another way") from None
    cascade = Cascade(lbp_frontal_face_cascade_filename())

    def find(picture: Image.Image) -> Box | None:
        scale = min(1.0, MAX_EDGE / max(picture.size))
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        values = np.asarray(picture.convert("RGB").resize(size, Image.Resampling.BILINEAR))
        shorter = min(size)
        if shorter < 48:  # the cascade's window has 24 pixels
            return None
        smallest = max(24, shorter // 8)
        faces = cascade.detect_multi_scale(
            img=values, scale_factor=1.2, step_ratio=1, min_size=(smallest, smallest), max_size=(shorter, shorter)
        )
        if not faces:
            return None
        best = max(faces, key=lambda face: face["width"] * face["height"])
        left, top, wide, high = (round(best[name] / scale) for name in ("c", "r", "width", "height"))
        return left, top, min(left + wide, picture.width), min(top + high, picture.height)

    return find
