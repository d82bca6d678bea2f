"""Pictures of a set are what a person sees of them, and what is odd about them is said."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_fewshot.augmentation.images.load import (
    load_mask,
    load_picture,
    subject_concept,
    subject_from_folder,
    subject_from_tensors,
)
from comfyui_fewshot.augmentation.images.prepare import PrepareSettings, prepare
from comfyui_fewshot.augmentation.images.relation_pictures import relation_from_folder
from comfyui_fewshot.tests.core import seen_pictures as made


def cut_out(under: Image.Image) -> Image.Image:
    """A red square of 12 pixels on nothing, with `under` below what is transparent."""
    under.paste((200, 30, 40), (10, 10, 22, 22))
    alpha = Image.new("L", under.size)
    alpha.paste(255, (10, 10, 22, 22))
    under.putalpha(alpha)
    return under


@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
@pytest.mark.parametrize("under", ["black", "picture", "stray"])
def test_a_cut_out_is_told_by_its_alpha(tmp_path, ending, under):
    ground = made.scene(32, 32) if under == "picture" else Image.new("RGB", (32, 32), "black")
    if under == "stray":
        ground.putpixel((0, 0), (0, 255, 0))
    cut_out(ground).save(tmp_path / f"a.{ending}", **({"lossless": True, "exact": True} if ending == "webp" else {}))
    notes: list[str] = []
    (sample,) = subject_from_folder(tmp_path, "sks", "cat", warnings=notes).samples
    white = cut_out(Image.new("RGB", (32, 32), "white")).convert("RGB")
    assert load_picture(sample.image).tobytes() == white.tobytes() and not notes
    assert load_mask(sample.mask).getbbox() == (10, 10, 22, 22)


def test_pictures_over_sockets_are_laid_on_white_too(tmp_path):
    pixels = np.asarray(cut_out(made.scene(32, 32)), np.float32) / 255
    hidden = pixels.copy()
    hidden[..., 3] = 0
    for values, corner in ((pixels, (255, 255, 255)), (hidden, made.scene(32, 32).getpixel((0, 0)))):
        tensor = torch.from_numpy(values)[None]
        (sample,) = subject_from_tensors(tensor, None, tmp_path, subject_concept("sks", "cat")).samples
        assert load_picture(sample.image).getpixel((0, 0)) == corner
        assert (sample.mask is not None) == (values is pixels), "an empty alpha is none, as an empty mask is"


def test_what_is_odd_about_pictures_is_named_on_the_node(tmp_path):
    (tmp_path / "a.jpg").write_bytes(made.saved(made.scene(), "JPEG", icc_profile=b"junk" * 40))
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    made.scene(9, 1000).save(tmp_path / "line.png")
    Image.new("RGBA", (32, 32)).save(tmp_path / "nothing.png")
    Image.fromarray(np.linspace(0, 3000, 1024, dtype=np.float32).reshape(32, 32)).save(tmp_path / "x.tif")
    words = [
        "a.jpg has a damaged colour profile", "dot.png has 1 x 1 pixels; too few", r"line.png has 9 x 1000 pixels",
        "nothing.png was left out: nothing.png is transparent all over", "x.tif holds numbers from 0 to 3000",
    ]  # fmt: skip
    for read in (subject_from_folder, relation_from_folder):
        notes: list[str] = []
        how = {"relation": "beside", "things": "cat, chair"} if read is relation_from_folder else {"noun": "cat"}
        found = read(tmp_path, "sks", warnings=notes, **how)
        assert len(found.samples) == 4 and len(notes) == len(words)
        assert all(note.startswith(word) for note, word in zip(notes, words, strict=True)), notes


def test_a_picture_with_a_profile_is_prepared_and_found_again(tmp_path):
    """The prepared copy must not bear the profile that was applied, or it would count twice."""
    (tmp_path / "a.png").write_bytes(made.saved(made.scene(), icc_profile=made.rgb_profile("p3")))
    pictures = subject_from_folder(tmp_path, "sks", "cat")
    (sample,) = prepare(pictures, PrepareSettings(crop="none", resolution=16), tmp_path / "cache")[0].samples
    assert "icc_profile" not in Image.open(sample.image.path).info
    assert load_picture(sample.image).size == (sample.image.width, sample.image.height)
