"""Pictures are resized without distortion, the crop lies inside them, and the mask goes along."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comfyui_fewshot.augmentation.images.crop import fit_to
from comfyui_fewshot.core.errors import FewShotError

SIDE = st.integers(1, 90)


@settings(max_examples=120, deadline=None)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["centre", "mask"]), st.data())
def test_the_crop_lies_inside_and_keeps_the_aspect(wide, high, width, height, centre, data):
    mask = Image.new("L", (wide, high))
    left, top = data.draw(st.integers(0, wide - 1)), data.draw(st.integers(0, high - 1))
    right, bottom = data.draw(st.integers(left + 1, wide)), data.draw(st.integers(top + 1, high))
    mask.paste(255, (left, top, right, bottom))
    picture, fitted, crop = fit_to(Image.new("RGB", (wide, high)), mask, width, height, centre)
    assert picture.size == fitted.size == (width, height)
    x0, y0, x1, y1 = crop.box
    assert 0 <= x0 < x1 <= wide and 0 <= y0 < y1 <= high
    assert (x1 - x0) * height == pytest.approx((y1 - y0) * width, rel=1e-9), "the aspect is that of the target"
    assert max((x1 - x0) / wide, (y1 - y0) / high) == pytest.approx(1), "no more is cropped than must be"
    assert crop.original == (high, wide) and crop.target == (height, width)
    assert crop.corner == (round(y0 * crop.scale), round(x0 * crop.scale))
    if centre == "centre":
        assert (x0 + x1) / 2 == pytest.approx(wide / 2) and (y0 + y1) / 2 == pytest.approx(high / 2)
    elif right - left <= x1 - x0 and bottom - top <= y1 - y0:
        slack = 1e-6
        assert x0 <= left + slack and right <= x1 + slack and y0 <= top + slack and bottom <= y1 + slack


def test_a_circle_stays_round():
    down, along = np.mgrid[0:200, 0:320]
    disc = Image.fromarray((((along - 250) ** 2 + (down - 100) ** 2 < 40**2) * 255).astype(np.uint8))
    for size in ((64, 64), (96, 64), (512, 512)):
        picture, mask, crop = fit_to(disc.convert("RGB"), disc, *size, "mask")
        left, top, right, bottom = mask.point(lambda v: 255 * (v > 127)).getbbox()
        assert abs((right - left) - (bottom - top)) <= 1
        assert (right - left) == pytest.approx(79 * crop.scale, abs=2)
        assert np.abs(np.asarray(picture.convert("L"), int) - np.asarray(mask, int)).mean() < 6, (
            "mask and picture agree"
        )


def test_a_smaller_mask_of_the_same_aspect_is_enlarged():
    mask = Image.new("L", (16, 12))
    mask.paste(255, (8, 0, 16, 12))
    _, fitted, _ = fit_to(Image.new("RGB", (160, 121)), mask, 80, 60)
    assert fitted.getpixel((70, 30)) == 255 and fitted.getpixel((5, 30)) == 0


@pytest.mark.parametrize(
    ("mask", "width", "centre", "said"),
    [
        (None, 0, "centre", "cannot be made 0 x 8"),
        (None, 8, "left", "no crop centre 'left'"),
        (Image.new("L", (10, 40)), 8, "centre", "a mask of 10 x 40 does not fit its picture of 20 x 20"),
    ],
)
def test_refused(mask, width, centre, said):
    with pytest.raises(FewShotError, match=said):
        fit_to(Image.new("RGB", (20, 20)), mask, width, 8, centre)


def test_empty_and_full_masks_crop_in_the_middle():
    picture = Image.new("RGB", (50, 20))
    for value in (0, 255):
        assert fit_to(picture, Image.new("L", picture.size, value), 20, 20, "mask")[2].box == (15, 0, 35, 20)
