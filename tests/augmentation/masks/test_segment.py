"""Masks of sets: cleaning, choosing, given masks, and errors that name picture, phrase and score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from comfyui_fewshot.augmentation.images.load import load_mask, picture_of, stored_picture
from comfyui_fewshot.augmentation.masks import clean
from comfyui_fewshot.augmentation.masks import segment as segmentation
from comfyui_fewshot.augmentation.masks.segment import SegmentSettings, given_masks, segment
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Sample, TrainingSet
from comfyui_fewshot.vision.segmenters.interface import Instance

DOG = Concept("sks", "dog")
CAT_ON_CHAIR = Concept("<R>", "on", kind="relation")


def square(left, top, right, bottom, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def seen(mask, score=0.9, phrase="dog"):
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Instance((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), score, phrase, mask)


class Finds:
    threshold = 0.4

    def __init__(self, *instances):
        self.instances, self.calls = instances, []

    def find(self, picture, phrases, threshold):
        self.calls.append((picture.size, tuple(phrases)))
        return [i for i in self.instances if i.phrase in phrases]


class Draws:
    """A masker that fills its boxes."""

    def masks(self, picture, boxes):
        return [(square(*map(int, box), shape=picture.size[::-1]), 0.5) for box in boxes]


@pytest.fixture
def pictures(tmp_path):
    def made(*names, concept=DOG, caption="a photo of sks dog", size=(60, 40)):
        for number, name in enumerate(names):
            Image.new("RGB", size, (9 * number, 0, 0)).save(tmp_path / name)
        samples = tuple(Sample(picture_of(tmp_path / name), caption) for name in names)
        return TrainingSet(samples, (concept,))

    return made


# --------------------------------------------------------------------------------------------------------- cleaning


def test_crumbs_go_and_pinholes_close():
    mask = square(10, 5, 50, 35)
    mask[20, 20] = False  # a hole of one pixel
    mask[0, 0] = True  # a crumb
    clean_mask = clean.clean_mask(mask)
    assert np.array_equal(clean_mask, square(10, 5, 50, 35))


def test_large_holes_and_second_parts_stay():
    mask = square(10, 5, 50, 35)
    mask[12:24, 15:30] = False
    mask[38:40, 0:40] = True  # 80 pixels, more than 5 % of the large part
    assert np.array_equal(clean.clean_mask(mask), mask)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_cleaning_keeps_shape_and_is_never_far_off(mask):
    clean_mask = clean.clean_mask(mask)
    assert clean_mask.shape == mask.shape and clean_mask.dtype == bool
    assert clean_mask.any() == mask.any()
    assert np.array_equal(clean.clean_mask(np.flip(mask, 1)), np.flip(clean_mask, 1))
    if mask.all():
        assert clean_mask.all()


@pytest.mark.parametrize(
    "mask, said",
    [
        (np.zeros((4, 4), bool), "empty"),
        (np.ones((4, 4), bool), "more than 95%"),
        (square(0, 0, 2, 2, (40, 60)), "less than 1%"),
        (np.ones((1, 1), bool), "more than 95%"),
        (square(10, 10, 40, 30), ""),
    ],
)
def test_masks_that_are_no_use_are_told(mask, said):
    assert said in clean.mask_problem(mask) and bool(said) == bool(clean.mask_problem(mask))


# --------------------------------------------------------------------------------------------------------- choosing


def test_the_best_of_each_phrase_is_taken(pictures, tmp_path):
    good, bad = square(10, 10, 30, 30), square(40, 5, 55, 20)
    made, results = segment(
        pictures("a.png"), Finds(seen(bad, 0.5), seen(good, 0.8)), None, SegmentSettings(), tmp_path / "cache"
    )
    assert np.array_equal(np.asarray(load_mask(made.samples[0].mask)) > 0, good)
    assert "dog 0.80" in results[0].message and "17%" in results[0].message
    everything, _ = segment(
        pictures("a.png"), Finds(seen(bad, 0.5), seen(good, 0.8)), None, SegmentSettings(instances="all"), tmp_path
    )
    assert np.array_equal(np.asarray(load_mask(everything.samples[0].mask)) > 0, good | bad)


def test_boxes_become_masks_by_a_masker(pictures, tmp_path):
    box = replace(seen(square(10, 10, 30, 30)), mask=None)
    made, results = segment(pictures("a.png"), Finds(box), Draws(), SegmentSettings(), tmp_path)
    assert np.array_equal(np.asarray(load_mask(made.samples[0].mask)) > 0, square(10, 10, 30, 30))
    assert "SAM is unsure" in results[0].message
    with pytest.raises(FewShotError, match="put a SAM beside it"):
        segment(pictures("a.png"), Finds(box), None, SegmentSettings(), tmp_path)


def test_boxes_over_one_thing_are_one(pictures):
    one, same, other = (
        seen(square(10, 10, 30, 30), 0.9),
        seen(square(11, 10, 30, 30), 0.8),
        seen(square(0, 0, 5, 5), 0.7),
    )
    assert segmentation.suppress_overlaps([other, same, one]) == [one, other]
    assert segmentation.box_iou((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
    assert segmentation.box_iou((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_a_relation_looks_for_its_two_things(pictures, tmp_path):
    finds = Finds(seen(square(5, 5, 20, 20), phrase="cat"), seen(square(25, 10, 50, 35), phrase="chair"))
    given_set = pictures("a.png", concept=CAT_ON_CHAIR, caption="a black cat <R> a wooden chair, indoors")
    made, _ = segment(given_set, finds, None, SegmentSettings(), tmp_path)
    assert finds.calls == [((60, 40), ("cat", "chair"))]
    expected = square(5, 5, 20, 20) | square(25, 10, 50, 35)
    assert np.array_equal(np.asarray(load_mask(made.samples[0].mask)) > 0, expected)


def test_words_may_be_given(pictures, tmp_path):
    finds = Finds(seen(square(5, 5, 20, 20), phrase="red dog"), seen(square(25, 10, 50, 35), phrase="ball"))
    segment(pictures("a.png"), finds, None, SegmentSettings(phrases="red {noun}, ball"), tmp_path)
    assert finds.calls[0][1] == ("red dog", "ball")


def test_a_picture_with_several_captions_is_looked_at_once(pictures, tmp_path):
    given_set = pictures("a.png")
    given_set = given_set.with_samples((given_set.samples[0], replace(given_set.samples[0], caption="sks dog, again")))
    finds = Finds(seen(square(10, 10, 30, 30)))
    made, _ = segment(given_set, finds, None, SegmentSettings(), tmp_path)
    assert len(finds.calls) == 1 and all(s.mask is not None for s in made.samples)
    assert [s.caption for s in made.samples] == ["a photo of sks dog", "sks dog, again"]


def test_masks_that_are_there_are_kept_unless_asked(pictures, tmp_path):
    given_set = pictures("a.png", "b.png")
    own = stored_picture(Image.fromarray(square(0, 0, 30, 30)).convert("L"), tmp_path)
    given_set = given_set.with_samples((replace(given_set.samples[0], mask=own), given_set.samples[1]))
    finds = Finds(seen(square(10, 10, 30, 30)))
    made, results = segment(given_set, finds, None, SegmentSettings(), tmp_path)
    assert len(finds.calls) == 1 and made.samples[0].mask == own and "keeps" in results[0].message
    made, _ = segment(given_set, finds, None, SegmentSettings(keep=False), tmp_path)
    assert made.samples[0].mask != own


# ----------------------------------------------------------------------------------------------------------- errors


def test_nothing_found_names_picture_phrase_and_score(pictures, tmp_path):
    with pytest.raises(FewShotError, match=r'b\.png: no "dog" was found \(best score 0\.31, needed 0\.40\)'):
        segment(pictures("b.png"), Finds(seen(square(9, 9, 30, 30), 0.31)), None, SegmentSettings(), tmp_path)
    with pytest.raises(FewShotError, match="best score 0.00"):
        segment(pictures("b.png"), Finds(), None, SegmentSettings(), tmp_path)
    made, _ = segment(
        pictures("b.png"), Finds(seen(square(9, 9, 30, 30), 0.31)), None, SegmentSettings(threshold=0.3), tmp_path
    )
    assert made.samples[0].mask is not None


def test_missing_pictures_go_or_stay_by_name(pictures, tmp_path, caplog):
    class Second(Finds):
        def find(self, picture, phrases, threshold):
            return super().find(picture, phrases, threshold) if picture.getpixel((0, 0))[0] else []

    finds = Second(seen(square(10, 10, 30, 30)))
    made, results = segment(pictures("a.png", "b.png"), finds, None, SegmentSettings(missing="leave out"), tmp_path)
    assert [s.image.path.name for s in made.samples] == ["b.png"] and "a.png" in caplog.text
    made, _ = segment(pictures("a.png", "b.png"), finds, None, SegmentSettings(missing="no mask"), tmp_path)
    assert [s.mask is not None for s in made.samples] == [False, True] and len(results) == 2
    with pytest.raises(FewShotError, match="nothing was found in any of the 1"):
        segment(pictures("a.png"), finds, None, SegmentSettings(missing="leave out"), tmp_path)


def test_full_frame_and_tiny_finds_are_refused(pictures, tmp_path):
    for mask, said in ((square(0, 0, 60, 40), "more than 95%"), (square(0, 0, 3, 3), "less than 1%")):
        with pytest.raises(FewShotError, match=said):
            segment(pictures("a.png"), Finds(seen(mask)), None, SegmentSettings(), tmp_path)
    with pytest.raises(FewShotError, match="more than 95%"):
        one = Finds(seen(np.ones((1, 1), bool)))
        segment(pictures("one.png", size=(1, 1)), one, None, SegmentSettings(), tmp_path)


def test_unknown_settings_are_refused(pictures, tmp_path):
    for wrong in ({"missing": "skip"}, {"instances": "two"}, {"role": "none"}, {"threshold": 2.0}):
        with pytest.raises(FewShotError, match="choose"):
            SegmentSettings(**wrong)
    with pytest.raises(FewShotError, match="no prior pictures"):
        segment(pictures("a.png"), Finds(), None, SegmentSettings(role="prior"), tmp_path)


# ------------------------------------------------------------------------------------------------------ given masks


def test_given_masks_win_as_they_are(pictures, tmp_path):
    given_set = pictures("a.png", "b.png")
    masks = [Image.fromarray(square(0, 0, 9, 9)).convert("L"), Image.fromarray(square(5, 5, 50, 30)).convert("L")]
    made, results = given_masks(given_set, masks, SegmentSettings(), tmp_path)
    assert [(np.asarray(load_mask(s.mask)) > 0).sum() for s in made.samples] == [81, 1125]
    assert results[0].message.startswith("a.png: the given mask")
    small = [masks[1].resize((30, 20))]
    assert len(given_masks(given_set, small, SegmentSettings(), tmp_path)[0].samples) == 2


def test_one_mask_serves_all_captions_of_its_picture(pictures, tmp_path):
    given_set = pictures("a.png", "b.png")
    texts = ("one sks dog", "a sks dog, outdoors", "sks dog at noon")
    several = given_set.with_samples(tuple(replace(s, caption=text) for text in texts for s in given_set.samples))
    masks = [Image.fromarray(square(0, 0, 9, 9)).convert("L"), Image.fromarray(square(5, 5, 50, 30)).convert("L")]
    made, _ = given_masks(several, masks, SegmentSettings(), tmp_path)
    assert [(np.asarray(load_mask(s.mask)) > 0).sum() for s in made.samples] == [81, 1125] * 3
    each, _ = given_masks(several, masks * 3, SegmentSettings(), tmp_path)
    assert each.key == made.key, "Set to Images gives a mask for each sample"
    with pytest.raises(FewShotError, match="2 pictures but 4 masks"):
        given_masks(several, masks * 2, SegmentSettings(), tmp_path)


def test_given_masks_that_do_not_fit_are_told(pictures, tmp_path):
    given_set = pictures("a.png", "b.png", "c.png")
    with pytest.raises(FewShotError, match="3 pictures but 2 masks"):
        given_masks(given_set, [Image.new("L", (60, 40))] * 2, SegmentSettings(), tmp_path)
    for value, said in ((0, "empty"), (255, "white all over")):
        with pytest.raises(FewShotError, match=said):
            given_masks(given_set, [Image.new("L", (60, 40), value)], SegmentSettings(), tmp_path)
    with pytest.raises(FewShotError, match="crop both alike"):
        given_masks(given_set, [Image.new("L", (40, 40), 9)], SegmentSettings(), tmp_path)


def test_overlays_show_mask_and_box(pictures, tmp_path):
    _, results = segment(pictures("a.png"), Finds(seen(square(10, 10, 30, 30))), None, SegmentSettings(), tmp_path)
    shown = segmentation.overlay(results[0])
    assert shown.getpixel((20, 20)) == (115, 29, 43) and shown.getpixel((50, 35)) == (0, 0, 0)
    assert shown.getpixel((10, 15)) == (255, 220, 0)
    bare = segmentation.overlay(replace(results[0], instances=()))
    assert bare.getpixel((10, 15)) == bare.getpixel((29, 15)) == (255, 255, 255)
    assert bare.getpixel((9, 15)) == (0, 0, 0) and bare.getpixel((11, 15)) == (115, 29, 43)
