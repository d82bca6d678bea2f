"""Folders and tensors become training sets; what cannot be read is named."""

import logging

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from comfyui_fewshot.augmentation.images.load import (
    fit_to,
    load_mask,
    load_picture,
    picture_of,
    subject_concept,
    subject_from_folder,
    subject_from_tensors,
)
from comfyui_fewshot.augmentation.images.relation_pictures import relation_concept
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, TrainingSet

CAT, S_CAT = Concept("sks", "cat"), Concept("s", "cat")


def drawn(value: int, size=(12, 8)) -> Image.Image:
    return Image.new("RGB", size, (value, 255 - value, 40))


def read(folder, *words, **how) -> TrainingSet:
    return subject_from_folder(folder, *(words or ("sks", "cat")), **how)


def test_a_folder_as_people_keep_it(tmp_path, caplog):
    for number in (1, 2, 10):
        drawn(number).save(tmp_path / f"{number}.png")
    (tmp_path / "2.txt").write_text("a cat in the snow")
    shape = Image.new("L", (12, 8))
    shape.paste(255, (2, 2, 8, 6))
    shape.save(tmp_path / "10_mask.png")
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    (tmp_path / "notes.md").write_text("no picture")
    drawn(9).save(tmp_path / "lonely_mask.png")
    (tmp_path / "old").mkdir()
    notes: list[str] = []
    with caplog.at_level(logging.WARNING):
        pictures = read(tmp_path, "sks", "cat", "striped", warnings=notes)
    assert [s.image.path.name for s in pictures.samples] == ["1.png", "2.png", "10.png"]
    assert [s.caption for s in pictures.samples] == [
        "a photo of sks striped cat", "a sks striped cat in the snow", "a photo of sks striped cat",
    ]  # fmt: skip
    assert [s.mask is not None for s in pictures.samples] == [False, False, True]
    assert load_mask(pictures.samples[2].mask).getbbox() == (2, 2, 8, 6)
    assert all(s.role == "reference" and s.weight == 1 for s in pictures.samples)
    assert pictures.trigger == "sks striped cat"
    assert [n.split(" was")[0] for n in notes] == [
        "lonely_mask.png", "folder old", "not read: 1 document (notes.md)", "bad.jpg",
    ]  # fmt: skip
    assert [r.getMessage() for r in caplog.records] == notes


def test_folders_with_repeats(tmp_path):
    for name in ("10_sks cat", "3_other", "0_none"):
        (tmp_path / name).mkdir()
        drawn(len(name)).save(tmp_path / name / "a.png")
    drawn(1).save(tmp_path / "b.webp", lossless=True)
    (tmp_path / "10_sks cat" / "a.txt").write_text("sks cat asleep")
    notes: list[str] = []
    pictures = read(tmp_path, warnings=notes)
    assert [(s.image.path.parent.name, s.weight) for s in pictures.samples] == [
        (tmp_path.name, 1.0), ("3_other", 3.0), ("10_sks cat", 10.0),
    ]  # fmt: skip
    assert pictures.samples[2].caption == "sks cat asleep"
    assert notes[0] == "folder 0_none was left out; it asks for 0 repeats" and len(notes) == 2
    assert notes[1].startswith('folder 3_other is named for "other", and its pictures are taught as "sks cat"')


def test_masks_that_do_not_fit_are_named(tmp_path):
    for name in "abcd":
        drawn(7).save(tmp_path / f"{name}.png")
    Image.new("L", (12, 8)).save(tmp_path / "a_mask.png")
    Image.new("L", (8, 12), 255).save(tmp_path / "b_mask.png")
    (tmp_path / "c_mask.png").write_bytes(b"broken")
    Image.new("L", (6, 4), 255).save(tmp_path / "d-masklabel.png")
    notes: list[str] = []
    pictures = read(tmp_path, warnings=notes)
    assert [s.mask is not None for s in pictures.samples] == [False, False, False, True]
    assert "a.png is used without its mask: the mask is empty" in notes[0]
    assert "the mask has 8 x 12 pixels, the picture 12 x 8" in notes[1]
    assert "c.png is used without its mask: c_mask.png is not a picture" in notes[2]


def test_a_mask_file_wins_over_transparency(tmp_path):
    both = drawn(3).convert("RGBA")
    both.putalpha(Image.new("L", both.size, 100))
    both.save(tmp_path / "a.png")
    alone = read(tmp_path).samples[0].mask
    assert load_mask(alone).getextrema() == (100, 100)
    Image.new("L", (12, 8), 255).save(tmp_path / "a_mask.png")
    assert load_mask(read(tmp_path).samples[0].mask).getextrema() == (255, 255)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(FewShotError, match="there is no folder"):
        read(tmp_path / "gone")
    with pytest.raises(FewShotError, match="no pictures in"):
        read(tmp_path)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(FewShotError, match=r"none of the 2 pictures .* can be read: a.png was left out"):
        read(tmp_path)
    for words, said in (
        (("", "cat"), "identifier is empty"),
        (("sks", " "), "noun is empty"),
        (("cat", "Cat"), "both"),
    ):
        with pytest.raises(FewShotError, match=said):
            read(tmp_path, *words)


def test_one_picture_is_enough(tmp_path):
    drawn(1).save(tmp_path / "only.png")
    assert len(read(tmp_path).samples) == 1


def test_the_key_is_of_the_content(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        drawn(5).save(tmp_path / folder / ("a.png" if folder == "one" else "renamed.bmp"))
    assert read(tmp_path / "one").key == read(tmp_path / "two").key
    assert read(tmp_path / "one").key != read(tmp_path / "one", "sks", "dog").key


def test_a_picture_changed_since_is_noticed(tmp_path):
    drawn(1).save(tmp_path / "a.png")
    picture = picture_of(tmp_path / "a.png")
    assert load_picture(picture).getpixel((0, 0)) == (1, 254, 40)
    drawn(2).save(tmp_path / "a.png")
    with pytest.raises(FewShotError, match="changed after it was read"):
        load_picture(picture)
    (tmp_path / "a.png").unlink()
    with pytest.raises(FewShotError, match="is not there"):
        load_picture(picture)


# ------------------------------------------------------------------------------------------------------- tensors


def test_tensors_are_kept_by_their_content(tmp_path):
    values = torch.rand(3, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    values[2] = values[0]
    pictures = subject_from_tensors(values, None, tmp_path, CAT)
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted({f"{s.image.key}.png" for s in pictures.samples})
    assert pictures.samples[0].image == pictures.samples[2].image
    wanted = (values[1] * 255).round().to(torch.uint8).numpy()
    assert np.array_equal(np.asarray(load_picture(pictures.samples[1].image)), wanted)
    stamps = [f.stat().st_mtime_ns for f in sorted(tmp_path.iterdir())]
    again = subject_from_tensors(values, None, tmp_path, CAT)
    assert again.key == pictures.key and stamps == [f.stat().st_mtime_ns for f in sorted(tmp_path.iterdir())]


def test_a_folder_and_its_tensors_are_the_same_set(tmp_path):
    drawn(5).save(tmp_path / "a.png")
    values = torch.tensor(np.asarray(drawn(5)))[None] / 255
    assert read(tmp_path).key == subject_from_tensors(values, None, tmp_path / "cache", CAT).key


def test_masks_of_tensors(tmp_path):
    values = torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(2, 8, 12)
    masks[0, 2:4, 3:9] = 1
    pictures = subject_from_tensors(values, masks, tmp_path, CAT)
    assert load_mask(pictures.samples[0].mask).getbbox() == (3, 2, 9, 4) and pictures.samples[1].mask is None
    one = subject_from_tensors(values, masks[0], tmp_path, CAT)
    assert all(s.mask == pictures.samples[0].mask for s in one.samples)
    empty = torch.zeros(2, 64, 64)
    notes: list[str] = []
    assert all(s.mask is None for s in subject_from_tensors(values, empty, tmp_path, S_CAT, warnings=notes).samples)
    assert not notes, "the host gives an empty mask of 64 x 64 with every picture that has none"
    wrong = subject_from_tensors(values, torch.ones(64, 64), tmp_path, S_CAT, warnings=notes)
    assert all(s.mask is None for s in wrong.samples) and len(notes) == 2


def test_a_fourth_channel_is_the_mask(tmp_path):
    values = torch.ones(1, 8, 12, 4)
    assert subject_from_tensors(values, None, tmp_path, CAT).samples[0].mask is None
    values[:, :, :6, 3] = 0
    assert load_mask(subject_from_tensors(values, None, tmp_path, CAT).samples[0].mask).getbbox() == (
        6,
        0,
        12,
        8,
    )


def test_lists_of_tensors_and_captions(tmp_path):
    values = [torch.zeros(2, 8, 12, 3), torch.ones(1, 20, 10, 3), torch.ones(6, 6, 1)]
    pictures = subject_from_tensors(values, None, tmp_path, CAT, captions=["a cat", "", "solo", "sks"])
    assert [s.caption for s in pictures.samples] == ["a sks cat", "a photo of sks cat", "sks cat, solo", "sks"]
    assert (pictures.samples[2].image.width, pictures.samples[2].image.height) == (10, 20)
    assert {s.caption for s in subject_from_tensors(values, None, tmp_path, S_CAT, captions="a cat").samples} == {
        "a s cat"
    }


@pytest.mark.parametrize(
    ("images", "how", "said"),
    [
        (torch.zeros(0, 8, 8, 3), {}, "there are no pictures"),
        ([], {}, "there are no pictures"),
        (torch.zeros(1, 3, 8, 8), {}, "channels; this one has 8"),
        (torch.zeros(8, 8), {}, r"shape \(8, 8\)"),
        (torch.zeros(1, 0, 8, 3), {}, "is empty"),
        (torch.full((1, 8, 8, 3), float("nan")), {}, "not numbers"),
        (torch.zeros(3, 8, 8, 3), {"captions": ["a", "b"]}, "3 pictures but 2 captions"),
        (torch.zeros(3, 8, 8, 3), {"masks": torch.ones(2, 8, 8)}, "3 pictures but 2 masks"),
    ],
)
def test_tensors_refused(tmp_path, images, how, said):
    with pytest.raises(FewShotError, match=said):
        subject_from_tensors(images, how.pop("masks", None), tmp_path, CAT, **how)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- photographs


def test_photographs(tmp_path):
    """Real pictures of several sizes, one stored turned, through reading and cropping at 512 px."""
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "chelsea.jpg", quality=92)
    exif = Image.Exif()
    exif[0x0112] = 6
    coffee = Image.fromarray(skimage.data.coffee())
    coffee.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "coffee.jpg", quality=92, exif=exif)
    pictures = read(tmp_path)
    sizes = {s.image.path.stem: (s.image.width, s.image.height) for s in pictures.samples}
    assert sizes == {"astronaut": (512, 512), "chelsea": (451, 300), "coffee": (600, 400)}
    for sample in pictures.samples:
        fitted, _, crop = fit_to(load_picture(sample.image), None, 512, 512)
        assert fitted.size == (512, 512)
        assert crop.box[2] - crop.box[0] == pytest.approx(crop.box[3] - crop.box[1])


@pytest.mark.parametrize("noun", ["(cat:1.3)", "cat <lora:x:1>", "{cat|dog}", "embedding:cat"])
def test_a_noun_is_plain_words(noun):
    with pytest.raises(FewShotError, match="the class noun is '.*', and holds .*give plain words"):
        subject_concept("sks", noun)
    with pytest.raises(FewShotError, match="the description is"):
        subject_concept("sks", "cat", noun)
    assert subject_concept("<R>", "cat's toy", "black-and-white").noun == "cat's toy"


@pytest.mark.parametrize(
    "word", ["sk\u200bs", "sks\ufeff", "s\xadks", "sks\u200d", "\u202esks", "sk\0s", "\u2800", "sk\u3164s", "\ue000sks"]
)
def test_words_are_seen(word):
    for words in ((word, "cat"), ("sks", f"cat{word}"), ("sks", "cat", word)):
        with pytest.raises(FewShotError, match="one that nobody sees .*type the word anew"):
            subject_concept(*words)
    with pytest.raises(FewShotError, match="nobody sees"):
        relation_concept(word)


@pytest.mark.parametrize("word", ["[V]", "\u0645\u06cc\u200c\u062e\u0648\u0627", "\U0001f469\u200d\U0001f467", "犬"])
def test_joiners_of_scripts_are_letters(word):
    assert subject_concept(word, "cat").identifier == word
