"""ICC profiles of colour spaces that files name without bringing a profile."""

from __future__ import annotations

import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D65 = (0.3127, 0.3290)
ILLUMINANT_C = (0.310, 0.316)
# xy of white, red, green and blue, by the numbers of ITU-T H.273.
PRIMARIES = {
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),
    4: (*ILLUMINANT_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*ILLUMINANT_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
# Curves as ICC's parametric function 4: y = (a x + b)^g + e for x >= d, else c x + f, given as g, a, b, c, d, e, f.
Curve = tuple[float, ...]
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0)
SMPTE_240_CURVE = (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0913, 0.0, 0.0)


def power(exponent: float, scale: float = 1.0) -> Curve:
    """y = scale x^exponent."""
    return (exponent, scale ** (1 / exponent), 0.0, 0.0, 0.0, 0.0, 0.0)


def matrix_profile(chromaticities: tuple[float, ...], curve: Curve) -> bytes:
    """The ICC profile of an RGB space with these chromaticities (xy of white, red, green, blue) and curve.

    It bears version 2.4, for which LittleCMS does no black point compensation of its own; browsers do none either.

    Raises:
        ValueError: the chromaticities span no space, or the profile's numbers cannot hold it.
    """
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\1".ljust(92, b"\0"), b"wtpt": _xyz(D50)}
    for name, column in zip(b"rgb", _colorants(chromaticities).T, strict=True):
        tags[bytes([name]) + b"XYZ"] = _xyz(column)
        tags[bytes([name]) + b"TRC"] = struct.pack(">4sIHH7i", b"para", 0, 4, 0, *(_fixed(v) for v in curve))
    places, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        places += struct.pack(">4sII", name, start + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s12s4s", start + len(body), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"", b"acsp")
    head = head.ljust(68, b"\0") + struct.pack(">3i", *(_fixed(v) for v in D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + places + body


def _colorants(chromaticities: tuple[float, ...]) -> np.ndarray:
    """XYZ of red, green and blue as columns (3, 3), adapted from the space's white to D50 (Bradford)."""
    points = np.array(chromaticities, np.float64).reshape(4, 2)
    if (points[0] <= 0).any():
        raise ValueError("no white point")
    white = _from_xy(points[:1])[:, 0]
    corners = np.stack([points[1:, 0], points[1:, 1], 1 - points[1:].sum(1)])
    if abs(np.linalg.det(corners)) < 1e-4:
        raise ValueError("the primaries lie on one line")
    colorants = corners * np.linalg.solve(corners, white)
    cones = BRADFORD @ np.array(D50) / (BRADFORD @ white)
    return np.linalg.inv(BRADFORD) @ np.diag(cones) @ BRADFORD @ colorants


def _from_xy(points: np.ndarray) -> np.ndarray:
    """XYZ (3, n) of a luminance of 1 from xy (n, 2)."""
    x, y = points.T
    return np.stack([x / y, np.ones_like(y), (1 - x - y) / y])


def _xyz(values: tuple[float, ...] | np.ndarray) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(_fixed(v) for v in values))


def _fixed(value: float) -> int:
    """ICC's s15Fixed16Number."""
    if not abs(value) < 32768:
        raise ValueError(f"{value} does not fit into a profile")
    return round(float(value) * 65536)
