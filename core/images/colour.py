"""Colours as a browser shows them: whatever a file's values mean becomes sRGB."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageCms

from .colour_tags import ColourTags
from .profiles import PRIMARIES, SMPTE_240_CURVE, SRGB_CURVE, Curve, matrix_profile, power

# Chromium takes a profile's table for perceptual intent where there is one, and does no black point compensation.
INTENT = ImageCms.Intent.PERCEPTUAL
UNOPTIMIZED = 0x0100  # LittleCMS's flag; else it approximates a profile's tables by coarse ones, 10 levels beside
SPACE_NAMES = {"RGB": "RGB", "GRAY": "grey", "CMYK": "CMYK", "Lab": "Lab"}
# Transfer curves by the numbers of ITU-T H.273. Video's curves are read as displays show them (BT.1886) in PNG, and as
# sRGB in AVIF and HEIF, whose writers name them by habit.
VIDEO_CURVES = (1, 6, 11, 14, 15)
CURVES = {4: power(2.2), 5: power(2.8), 7: SMPTE_240_CURVE, 8: power(1.0), 13: SRGB_CURVE, 17: power(2.6, 52.37 / 48)}
SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.05  # a PNG that names only a gamma of nearly sRGB's means sRGB
LARGEST_SAME = 1  # levels of 255 by which a profile may differ from sRGB and still be it


def to_srgb(picture: Image.Image, tags: ColourTags, notes: list[str]) -> Image.Image:
    """`picture` (no alpha, no palette) as RGB in sRGB. A profile that cannot be used is said in `notes`."""
    if picture.mode not in ("L", "1", "RGB", "CMYK"):
        return picture.convert("RGB")  # YCbCr, HSV and Lab say themselves what their values mean
    profile = _profile(tags, picture.mode, notes)
    if profile is None:
        return picture.convert("RGB")
    grey = picture.mode in ("L", "1")
    source = "L" if grey and _space(profile) == "GRAY" else "CMYK" if picture.mode == "CMYK" else "RGB"
    prepared = picture.convert(source)
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(given, _srgb(), source, "RGB", INTENT, flags=_flags(profile))  # type: ignore[arg-type]
        seen = None if _changes_nothing(transform, source) else ImageCms.applyTransform(prepared, transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        notes.append(f"has a colour profile that cannot be applied ({error}); its colours are taken as sRGB")
        seen = None
    return picture.convert("RGB") if seen is None else seen


def _profile(tags: ColourTags, mode: str, notes: list[str]) -> bytes | None:
    """The profile that counts, in a browser's order: code points, ICC, gamma; None where values are sRGB's."""
    if (profile := _profile_of_codes(tags)) is not None:
        return profile
    if tags.icc is not None:
        profile, is_readable = _usable(tags.icc, mode, notes)
        if is_readable:
            return profile
    return _profile_of_gamma(tags)


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(matrix_profile(PRIMARIES[1], SRGB_CURVE)))


def _space(profile: bytes) -> str:
    return profile[16:20].decode("latin-1").strip()


def _flags(profile: bytes) -> int:
    """A profile of matrix and curves is exact and fast when optimized, one with tables (A2B0) is not."""
    tags = int.from_bytes(profile[128:132], "big")
    return UNOPTIMIZED if b"A2B0" in profile[132 : 132 + 12 * tags] else 0


def _usable(icc: bytes, mode: str, notes: list[str]) -> tuple[bytes | None, bool]:
    """The profile if it fits a picture of this mode, and whether it can be read at all."""
    try:
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    except (OSError, ValueError, ImageCms.PyCMSError):
        notes.append("has a damaged colour profile; its colours are taken as sRGB")
        return None, False
    fitting = {"CMYK": ("CMYK",), "RGB": ("RGB",)}.get(mode, ("GRAY", "RGB"))
    if (space := _space(icc)) in fitting:
        return icc, True
    name = SPACE_NAMES.get(space, space)
    notes.append(f"has a colour profile for {name} that does not fit it; its colours are taken as sRGB")
    return None, True


def _profile_of_codes(tags: ColourTags) -> bytes | None:
    """The profile of a PNG's cICP or an AVIF's nclx; None without, and where it is not known."""
    if tags.codes is None:
        return None
    primaries, transfer = tags.codes
    if tags.format == "PNG":
        curve = power(2.4) if transfer in VIDEO_CURVES else CURVES.get(transfer)
        if curve is None or primaries not in PRIMARIES:
            return None
    else:
        curve = CURVES.get(transfer, SRGB_CURVE)
    chromaticities = PRIMARIES.get(primaries, PRIMARIES[1])
    return matrix_profile(chromaticities, curve)


def _profile_of_gamma(tags: ColourTags) -> bytes | None:
    """The profile of a PNG's gAMA and cHRM; cHRM alone means nothing, and gAMA alone only where it is not sRGB's."""
    if not tags.gamma:
        return None
    if tags.chromaticities is None and abs(tags.gamma / SRGB_GAMMA - 1) < GAMMA_TOLERANCE:
        return None
    curve: Curve = power(1 / tags.gamma)
    try:
        return matrix_profile(tags.chromaticities or PRIMARIES[1], curve)
    except ValueError:
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, source: str) -> bool:
    """Whether it is sRGB's own profile by another name: such pictures keep their pixels, and so their keys."""
    if source == "CMYK":
        return False
    if source == "L":
        probe = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    else:
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = Image.fromarray(np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3))
    found = np.asarray(ImageCms.applyTransform(probe, transform), np.int16)
    return bool(np.abs(found - np.asarray(probe.convert("RGB"), np.int16)).max() <= LARGEST_SAME)
