"""Pictures prepared: crops that keep the subject, no enlarging, duplicates, blur, faces, and a row on each."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter
from skimage import data

from comfyui_fewshot.augmentation.images import prepare as preparing
from comfyui_fewshot.augmentation.images import quality
from comfyui_fewshot.augmentation.images.load import load_mask, load_picture, picture_of, subject_from_folder
from comfyui_fewshot.augmentation.images.prepare import PrepareSettings, buckets, nearest_bucket, prepare, table
from comfyui_fewshot.augmentation.images.quality import ImageFingerprint, face_finder, sharpness
from comfyui_fewshot.core import images
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Part, Sample, TrainingSet

PHOTOGRAPHS = ("chelsea", "astronaut", "coffee", "rocket")


def photograph(name="chelsea"):
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def set_of(tmp_path):
    """A function that writes pictures (and masks of boxes in them) and reads them as a set."""

    def build(**pictures):
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        for name, shown in pictures.items():
            picture, box = shown if isinstance(shown, tuple) else (shown, None)
            picture.save(folder / f"{name}.png")
            if box is not None:
                mask = Image.new("L", picture.size)
                ImageDraw.Draw(mask).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=255)
                mask.save(folder / f"{name}_mask.png")
        return subject_from_folder(folder, "sks", "cat")

    return build


# ------------------------------------------------------------------------------------------------------------ crops


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)), bucket=st.tuples(st.integers(1, 99), st.integers(1, 99)),
    tightness=st.floats(0, 1), box=st.tuples(*[st.floats(0, 1)] * 4),
)  # fmt: skip
def test_crops_lie_inside_and_keep_the_aspect(size, bucket, tightness, box):
    xs, ys = sorted((box[0] * size[0], box[1] * size[0])), sorted((box[2] * size[1], box[3] * size[1]))
    around = (xs[0], ys[0], xs[1], ys[1])
    left, top, right, bottom = preparing._crop(Image.new("L", size), around, bucket, tightness)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    exact = bucket[0] / bucket[1]
    assert abs((right - left) - exact * (bottom - top)) <= max(1, exact)
    if right - left >= xs[1] - xs[0] + 1 and bottom - top >= ys[1] - ys[0] + 1:
        assert left <= xs[0] + 1 and right >= xs[1] - 1 and top <= ys[0] + 1 and bottom >= ys[1] - 1


@pytest.mark.parametrize("tightness", [0.0, 1.0])
def test_a_subject_at_the_edge_stays_in(set_of, tmp_path, tightness):
    one = set_of(wide=(noise(300, 100), (240, 20, 290, 70)))
    made, (row,) = prepare(one, PrepareSettings(resolution=48, tightness=tightness), tmp_path)
    (sample,) = made.samples
    assert (sample.image.width, sample.image.height) == (48, 48) == (sample.mask.width, sample.mask.height)
    assert row.crop == ((200, 0, 300, 100) if tightness == 0 else (240, 20, 290, 70))
    area = (np.asarray(load_mask(sample.mask)) >= 128).mean()
    assert area == pytest.approx(0.25 if tightness == 0 else 1.0, abs=0.04) and not row.warnings


def test_all_masks_of_a_picture_go_along(set_of, tmp_path):
    one = set_of(a=(noise(120, 60), (70, 10, 110, 50)))
    other = Sample(picture_of(tmp_path / "pictures" / "a_mask.png"), "", None)
    both = replace(one.samples[0], others=(Part(1, replace(other.image, key=one.samples[0].mask.key)),))
    two = TrainingSet((both,), (Concept("sks", "cat"), Concept("zwx", "car")))
    made, _ = prepare(two, PrepareSettings(resolution=30), tmp_path)
    assert made.samples[0].others[0].mask.key == made.samples[0].mask.key != both.mask.key


def test_what_needs_no_change_stays_the_same_value(set_of, tmp_path):
    one = set_of(square=noise(64, 64))
    made, _ = prepare(one, PrepareSettings(resolution=64), tmp_path)
    assert made.key == one.key and made.samples[0].image.path == one.samples[0].image.path
    assert prepare(made, PrepareSettings(resolution=64, crop="none"), tmp_path)[0].key == one.key


def test_nothing_is_enlarged_unless_asked_for(set_of, tmp_path):
    one = set_of(little=noise(50, 40))
    made, (row,) = prepare(one, PrepareSettings(resolution=64), tmp_path)
    assert (made.samples[0].image.width, made.samples[0].image.height) == (40, 40)
    assert row.warnings == ("small: 40 x 40 pixels, wanted 64 x 64",)
    made, (row,) = prepare(one, PrepareSettings(resolution=64, upscale=True), tmp_path)
    assert made.samples[0].image.width == 64 and row.warnings == ("enlarged from 40 x 40, wanted 64 x 64",)


def test_buckets_keep_the_aspect_as_far_as_they_can(set_of, tmp_path):
    for resolution in (64, 512, 1024):
        for width, height in buckets(resolution):
            assert width * height <= resolution**2 and max(width, height) <= 2 * min(width, height)
        assert (resolution, resolution) in buckets(resolution)
    assert nearest_bucket((600, 400), 512) == (640, 384) and nearest_bucket((400, 600), 512) == (384, 640)
    one = set_of(a=photograph("coffee"))
    made, (row,) = prepare(one, PrepareSettings(resolution=256, crop="buckets"), tmp_path)
    assert row.bucket == (made.samples[0].image.width, made.samples[0].image.height) == nearest_bucket((600, 400), 256)
    assert (row.crop[2] - row.crop[0]) * (row.crop[3] - row.crop[1]) > 0.9 * 600 * 400


def test_a_picture_without_a_mask_is_cropped_in_its_middle(set_of, tmp_path):
    _, (row,) = prepare(set_of(a=noise(90, 50)), PrepareSettings(resolution=40), tmp_path)
    assert row.crop == (20, 0, 70, 50)


def test_the_crop_goes_around_the_face(set_of, tmp_path):
    face = face_finder()(photograph("astronaut"))
    assert face[0] < 224 < face[2] and face[1] < 115 < face[3]  # the middle of her nose
    one = set_of(a=photograph("astronaut").resize((900, 900)), b=photograph("coffee"))
    made, rows = prepare(one, PrepareSettings(crop="face", tightness=1.0, resolution=128), tmp_path)
    crop = rows[0].crop
    assert crop[0] < 224 * 900 / 512 < crop[2] and crop[1] < 115 * 900 / 512 < crop[3] and crop[2] - crop[0] < 300
    assert rows[1].warnings == ("no face was found",) and len(made.samples) == 2
    assert face_finder()(Image.new("RGB", (20, 500))) is None


def test_without_scikit_image_faces_are_refused_with_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    with pytest.raises(FewShotError, match="pip install scikit-image"):
        face_finder()


# ------------------------------------------------------------------------------------------------------ examination


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_copies_are_known_and_other_pictures_are_not(name, tmp_path):
    picture = photograph(name)
    picture.resize((picture.width // 2, picture.height // 2)).save(tmp_path / "copy.jpg", quality=60)
    copy = images.decode(tmp_path / "copy.jpg")[0]
    brighter = ImageEnhance.Brightness(picture).enhance(1.05)
    assert ImageFingerprint(picture).same(ImageFingerprint(copy)) and ImageFingerprint(copy).same(
        ImageFingerprint(brighter)
    )
    for other in PHOTOGRAPHS:
        assert (other == name) == ImageFingerprint(picture).same(ImageFingerprint(photograph(other)))
    assert not ImageFingerprint(picture).same(ImageFingerprint(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))


def test_flat_pictures_of_other_colours_are_not_the_same():
    one, other = Image.new("RGB", (9, 9), "red"), Image.new("RGB", (9, 9), "blue")
    assert ImageFingerprint(one).same(ImageFingerprint(one.resize((50, 50)))) and not ImageFingerprint(one).same(
        ImageFingerprint(other)
    )


def test_duplicates_are_left_out_or_told_of(set_of, tmp_path):
    picture = photograph()
    pictures = set_of(a=picture, b=photograph("coffee"), c=picture.resize((300, 200)))
    made, rows = prepare(pictures, PrepareSettings(resolution=64), tmp_path)
    assert len(made.samples) == 2 and rows[2].sample is None
    assert rows[2].warnings == ("left out: the same picture as a.png",)
    made, rows = prepare(pictures, PrepareSettings(resolution=64, duplicates="keep"), tmp_path)
    assert len(made.samples) == 3 and rows[2].warnings == ("the same picture as a.png",)


def test_captions_of_one_picture_are_no_duplicates(set_of, tmp_path):
    """Relation Pictures and Expand Captions give a picture once for each caption, with its weight shared out."""
    pictures = set_of(a=photograph(), b=photograph("coffee"), c=photograph())
    texts = ("sks cat, indoors", "a photo of a very calm sks cat", "one sks cat")
    several = tuple(replace(s, caption=text, weight=1 / 3) for s in pictures.samples for text in texts)
    made, rows = prepare(
        pictures.with_samples(several), PrepareSettings(resolution=64), tmp_path, tokens=lambda text: len(text.split())
    )
    assert [s.caption for s in made.samples] == [*texts, *texts], "c.png is a copy of a.png under another name"
    assert sum(s.weight for s in made.samples) == pytest.approx(2)
    assert len({s.image.key for s in made.samples}) == 2 and all(s.image.width == 64 for s in made.samples)
    assert {w for row in rows for w in row.warnings} == {"left out: the same picture as a.png"}
    lines = table(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["file", "a.png", "b.png", "c.png"] and "10/77" in lines[1]


def test_one_file_as_two_subjects_is_no_duplicate(set_of, tmp_path):
    (sample,) = set_of(a=photograph()).samples
    two = TrainingSet((sample, replace(sample, concept=1)), (Concept("sks", "cat"), Concept("zwx", "car")))
    assert len(prepare(two, PrepareSettings(resolution=64), tmp_path)[0].samples) == 2


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_blur_is_seen_at_any_size(name):
    picture = photograph(name)
    for scale in (1, 2):
        larger = picture.resize((picture.width * scale, picture.height * scale))
        assert sharpness(larger) > 10 * quality.MIN_SHARPNESS
        assert sharpness(larger.filter(ImageFilter.GaussianBlur(3 * scale))) < quality.MIN_SHARPNESS


def test_a_background_out_of_focus_is_no_blur(set_of, tmp_path):
    picture = photograph("astronaut")
    blurred = picture.filter(ImageFilter.GaussianBlur(6))
    focused = blurred.copy()
    focused.paste(picture.crop((150, 50, 300, 200)), (150, 50))
    _, rows = prepare(set_of(a=blurred, b=focused), PrepareSettings(resolution=64, duplicates="keep"), tmp_path)
    assert rows[0].warnings[-1].startswith("blurred: sharpness") and not any("blur" in w for w in rows[1].warnings)


# ------------------------------------------------------------------------------------------------------------- rows


def test_the_table_says_it_all(set_of, tmp_path):
    pictures = set_of(a=(noise(300, 100), (10, 10, 290, 90)), long=noise(64, 64, 1))
    long = replace(pictures.samples[1], caption="a sks cat " + "very " * 90)
    pictures = pictures.with_samples((pictures.samples[0], long))
    _, rows = prepare(pictures, PrepareSettings(resolution=64), tmp_path, tokens=lambda text: len(text.split()))
    lines = table(rows).splitlines()
    assert lines[0].split() == ["file", "size", "crop", "made", "tokens", "warnings"]
    assert lines[1].split()[:5] == ["a.png", "300x100", "100x100+100+0", "64x64", "7/77"]
    assert "the crop cuts off 64% of the subject" in lines[1]
    assert lines[2].split()[:5] == ["long.png", "64x64", "whole", "64x64", "95/77"]
    assert lines[2].endswith("the caption has 95 tokens; of 77 the rest is not read")


def test_priors_and_composites_stay_as_they_are(set_of, tmp_path):
    one = set_of(a=noise(90, 60))
    sample = one.samples[0]
    kept = (replace(sample, role="prior"), replace(sample, pasted=True))
    made, rows = prepare(one.with_samples((*kept, sample)), PrepareSettings(resolution=32), tmp_path)
    assert made.samples[:2] == kept and len(rows) == 1
    with pytest.raises(FewShotError, match="no pictures of a subject"):
        prepare(one.with_samples(kept), PrepareSettings(), tmp_path)


# -------------------------------------------------------------------------------------------------------- bad input


def test_a_broken_picture_is_named_and_all_broken_is_an_error(set_of, tmp_path):
    two = set_of(a=noise(64, 64), b=noise(64, 64, 1))
    two.samples[1].image.path.write_bytes(b"\x89PNG broken")
    made, rows = prepare(two, PrepareSettings(resolution=32), tmp_path)
    assert len(made.samples) == 1 and rows[1].sample is None and "left out: b.png" in rows[1].warnings[0]
    assert "b.png" in table(rows)
    two.samples[0].image.path.unlink()
    with pytest.raises(FewShotError, match=r"none of the 2 pictures is left: a.png.*b.png"):
        prepare(two, PrepareSettings(resolution=32), tmp_path)


def test_one_pixel_and_long_strips(set_of, tmp_path):
    pictures = set_of(dot=Image.new("RGB", (1, 1), "red"), strip=noise(2000, 1), post=noise(1, 700, 3))
    for crop in preparing.CROPS:
        made, rows = prepare(pictures, PrepareSettings(resolution=64, crop=crop), tmp_path)
        assert len(made.samples) == 3 and all(load_picture(s.image) for s in made.samples)
        assert all(any("small" in w for w in row.warnings) for row in rows)


def test_pictures_of_phones_need_a_reader(tmp_path, monkeypatch):
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(FewShotError, match="phone.heic is HEIC; pip install pillow-heif"):
        picture_of(path)
    asked = []
    reader = type(sys)("pillow_heif")
    reader.register_heif_opener = lambda: asked.append(True)
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    with pytest.raises(FewShotError, match="phone.heic is not a picture"):
        picture_of(path)
    assert asked == [True], "the reader was asked for"
    noise(8, 8).save(path, "PNG")
    assert picture_of(path).width == 8, "a file is read by its content, not its name"


@pytest.mark.parametrize(
    ("changes", "words"),
    [(dict(crop="round"), "'round'"), (dict(resolution=1), "resolution is 1"), (dict(tightness=2), "tightness is 2"),
     (dict(duplicates="shred"), "'shred'")],
)  # fmt: skip
def test_settings_that_make_no_sense(changes, words):
    with pytest.raises(FewShotError, match=words):
        PrepareSettings(**changes)
