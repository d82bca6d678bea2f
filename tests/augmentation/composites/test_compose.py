"""Layers: commanded boxes, exact masks, bounded occlusion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from comfyui_fewshot.augmentation.composites import compose as compositing
from comfyui_fewshot.augmentation.composites.compose import arrange, compose, cut_out, on_canvas, place_cut_out, visible
from comfyui_fewshot.augmentation.images.load import stored_picture
from comfyui_fewshot.core.values import Sample
from comfyui_fewshot.tests.augmentation.composites.cut_outs import MAX_SEED, blob, cut


@settings(max_examples=60, deadline=None)
@given(left=st.integers(-20, 60), top=st.integers(-20, 60), wide=st.integers(4, 90), feather=st.floats(0, 3))
def test_the_mask_fills_the_commanded_box(left, top, wide, feather):
    high = round(wide * 0.75)
    layer = place_cut_out(cut(blob()), (left, top, left + wide, top + high), feather)
    assert layer.box == (left, top, left + wide, top + high) and layer.mask.shape == (high, wide)
    rows, columns = np.flatnonzero(layer.mask.any(1)), np.flatnonzero(layer.mask.any(0))
    assert rows[0] <= 1 and columns[0] <= 1 and rows[-1] >= high - 2 and columns[-1] >= wide - 2
    assert np.array_equal(np.asarray(layer.alpha) >= 128, layer.mask)


def test_flipping_flips_picture_and_mask_alike():
    shape = blob(shape="ellipse")
    ImageDraw.Draw(shape).rectangle((10, 5, 20, 35), fill=255)  # not its own mirror image
    one, other = (place_cut_out(cut(shape), (0, 0, 40, 30), 1.0, flip) for flip in (False, True))
    assert np.array_equal(np.flip(one.mask, 1), other.mask) and not np.array_equal(one.mask, other.mask)
    assert np.array_equal(np.flip(np.asarray(one.colours), 1), np.asarray(other.colours))
    assert np.abs(np.flip(np.asarray(one.alpha).astype(int), 1) - np.asarray(other.alpha)).max() <= 1


@settings(max_examples=30, deadline=None)
@given(colour=st.tuples(*[st.integers(0, 255)] * 3), seed=st.integers(0, MAX_SEED))
def test_a_colour_on_the_same_colour_stays(colour, seed):
    plain = cut(blob(), Image.new("RGB", (60, 40), colour))
    layers = arrange([plain, plain], 48, (0.3, 0.9), np.random.default_rng(seed))
    picture = compose(Image.new("RGB", (48, 48), colour), layers).picture
    assert picture.getcolors() == [(48 * 48, colour)]


@pytest.mark.parametrize("size", [140, 70, 512])
def test_the_old_background_stays_behind(tmp_path, size):
    """White on the subject, red around it: nothing may be red in the composite."""
    mask = blob(400, 400, (100, 100, 300, 300))
    colours = Image.composite(Image.new("RGB", mask.size, "white"), Image.new("RGB", mask.size, (255, 0, 0)), mask)
    sample = Sample(stored_picture(colours, tmp_path), "", stored_picture(mask, tmp_path))
    layers = arrange([cut_out(sample, size)], size, (0.4, 0.8), np.random.default_rng(0))
    picture = np.asarray(compose(Image.new("RGB", (size, size), (0, 0, 255)), layers).picture).astype(int)
    assert np.abs(picture[..., 0] - picture[..., 1]).max() <= 8 and picture[..., 0].max() > 250


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, MAX_SEED), flip=st.booleans(), count=st.integers(1, 3))
def test_enough_of_each_is_seen_and_masks_never_overlap(seed, flip, count):
    cuts = [cut(blob(box=(10, 5, 30 + 10 * n, 35))) for n in range(count)]
    layers = arrange(cuts, 64, (0.3, 0.6), np.random.default_rng(seed), flip)
    assert 1 <= len(layers) <= count and any(layer.cut is cuts[0] for layer in layers)
    assert min(visible(layers, 64)) >= compositing.MIN_VISIBLE
    assert all(on_canvas(layer, (64, 64)).sum() >= compositing.MIN_INSIDE * layer.mask.sum() for layer in layers)
    done = compose(Image.new("RGB", (64, 64)), layers)
    assert np.sum(done.masks, axis=0).max() <= 1
    for mask, share, layer in zip(done.masks, visible(layers, 64), layers, strict=True):
        assert mask.sum() == round(share * layer.mask.sum())


def test_a_front_subject_hides_the_one_behind():
    whole = cut(Image.new("L", (10, 10), 255))
    back, front = place_cut_out(whole, (0, 0, 10, 10), 0), place_cut_out(whole, (5, 0, 15, 10), 0)
    done = compose(Image.new("RGB", (20, 20)), [back, front])
    assert [mask.sum() for mask in done.masks] == [50, 100] and not done.masks[0][:, 5:].any()
    assert visible([back, front], 20) == [0.5, 1.0]


@settings(max_examples=40, deadline=None)
@given(side=st.integers(4, 40), scale=st.floats(0.35, 1.0), seed=st.integers(0, MAX_SEED))
def test_nothing_is_enlarged_too_much(side, scale, seed):
    small = cut(Image.new("L", (side, side), 255))
    (layer,) = arrange([small], 128, (scale, scale), np.random.default_rng(seed))
    assert layer.side == pytest.approx(min(scale * 128, compositing.MAX_ENLARGEMENT * side), abs=1)


def test_what_can_never_fit_is_laid_in_the_middle():
    """Three subjects as large as the picture hide each other whatever is tried."""
    large = cut(Image.new("L", (64, 64), 255))
    (layer,) = arrange([large] * 3, 64, (1.0, 1.0), np.random.default_rng(0))
    assert visible([layer], 64)[0] >= compositing.MIN_INSIDE


def test_thin_things_do_not_vanish():
    line = cut(blob(400, 400, (50, 199, 350, 200), "rectangle"))
    layer = place_cut_out(line, (0, 0, 30, 1), 2.0)
    assert layer.mask.all() and np.asarray(layer.alpha).min() >= 128
