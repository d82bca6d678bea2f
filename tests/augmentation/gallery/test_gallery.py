"""Prompts out of files as ComfyUI and A1111 write them; the index, its searches, and the subject in a found prompt."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from comfyui_fewshot.augmentation.gallery.index import Gallery, Ranking, query_of, reciprocal_rank_fusion
from comfyui_fewshot.augmentation.gallery.metadata import read_prompt
from comfyui_fewshot.augmentation.gallery.rewrite import rewrite
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept

DOG = Concept("sks", "dog")
A1111 = (
    "a fox in the snow, <lora:add:0.8> (sharp:1.2)\nNegative prompt: blurry,\nugly\n"
    'Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Size: 512x768, Model: dream, Lora hashes: "a: 1, b: 2"'
)


def graph(positive="a castle at dusk", negative="people", sampler="KSampler", **more):
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "dream.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": positive, "clip": ["1", 1]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["9", 0], "clip": ["1", 1]}},
        "4": {"class_type": "ControlNetApply", "inputs": {"conditioning": ["2", 0], "strength": 1.0}},
        "5": {
            "class_type": sampler,
            "inputs": {"seed": 7, "steps": 20, "cfg": 6.5, "sampler_name": "euler", "scheduler": "simple",
                       "positive": ["4", 0], "negative": ["3", 0], "model": ["1", 0], **more},
        },
        "9": {"class_type": "PrimitiveString", "inputs": {"value": negative}},
    }  # fmt: skip


def png(path, colour="red", size=(24, 16), **texts):
    about = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        about.add_text(name, text)
    Image.new("RGB", size, colour).save(path, pnginfo=about)
    return path


def exif_picture(path, tags, comment=b""):
    picture, exif = Image.new("RGB", (16, 24), "blue"), Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    if comment:
        exif.get_ifd(0x8769)[0x9286] = comment
    picture.save(path, exif=exif)
    return path


# ------------------------------------------------------------------------------------------------------------ files


def test_comfyui_s_png_gives_prompt_and_parameters(tmp_path):
    found = read_prompt(png(tmp_path / "a.png", prompt=json.dumps(graph()), workflow="{}"))
    assert (found.positive, found.negative, found.tool) == ("a castle at dusk", "people", "ComfyUI")
    assert found.parameters == {
        "seed": 7, "steps": 20, "cfg": 6.5, "sampler": "euler", "scheduler": "simple", "model": "dream.safetensors",
        "width": 24, "height": 16,
    }  # fmt: skip


def test_a1111_s_png_gives_prompt_and_parameters(tmp_path):
    found = read_prompt(png(tmp_path / "a.png", parameters=A1111))
    assert found.positive == "a fox in the snow, <lora:add:0.8> (sharp:1.2)" and found.negative == "blurry, ugly"
    assert found.parameters == {
        "seed": 42, "steps": 20, "cfg": 7.5, "sampler": "Euler a", "model": "dream", "width": 512, "height": 768,
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["webp", "jpg"])
def test_exif_gives_the_same(tmp_path, ending):
    path = exif_picture(tmp_path / f"c.{ending}", {0x0110: "prompt:" + json.dumps(graph("a café"))})
    assert read_prompt(path).positive == "a café" or ending == "jpg" and "caf" in read_prompt(path).positive
    for code, text in ((b"UNICODE\0", A1111.encode("utf-16-be")), (b"UNICODE\0", A1111.encode("utf-16-le")),
                       (b"ASCII\0\0\0", A1111.encode())):  # fmt: skip
        found = read_prompt(exif_picture(tmp_path / f"d.{ending}", {}, code + text))
        assert found.parameters["seed"] == 42 and found.tool == "A1111"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"1": 2}', "{}", "null", '{"1": {"class_type": 3, "inputs": {}}}'])
def test_metadata_without_a_prompt_is_none(tmp_path, text):
    assert read_prompt(png(tmp_path / "a.png", prompt=text, parameters="hello")) is None


# ------------------------------------------------------------------------------------------------------------ index


@pytest.fixture
def gallery(tmp_path):
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    png(folder / "castle.png", "red", prompt=json.dumps(graph()))
    png(folder / "deep" / "fox.png", "blue", parameters=A1111)
    png(folder / "plain.png")
    (folder / "broken.png").write_bytes(b"\x89PNG no")
    return Gallery(folder, tmp_path / "index" / "a.sqlite")


class Colours:
    """Stands for a CLIP: red, green and blue are its dimensions."""

    model_id = "colours"

    def __init__(self):
        self.seen = 0

    def images(self, images):
        self.seen += len(images)
        return torch.tensor([[v / 255 for v in p.convert("RGB").resize((1, 1)).getpixel((0, 0))] for p in images])

    def texts(self, texts):
        return torch.tensor([[float(c in t) for c in ("red", "green", "blue")] for t in texts])


def test_the_index_is_kept_up_to_date(gallery):
    first = gallery.update()
    assert (first.added, first.removed, first.total, first.with_prompt) == (4, 0, 4, 2)
    assert len(first.broken) == 1 and "broken.png" in first.broken[0] and "broken.png" in str(first)
    assert gallery.update().added == 0
    state = gallery.state()
    png(gallery.folder / "castle.png", prompt=json.dumps(graph("a lighthouse")))
    os.utime(gallery.folder / "castle.png", ns=(1, 1))
    (gallery.folder / "deep" / "fox.png").unlink()
    assert gallery.state() != state
    second = gallery.update()
    assert (second.added, second.removed, second.with_prompt) == (1, 1, 1)
    assert gallery.search("lighthouse")[0].path.name == "castle.png"
    for gone in ("castle", "fox"):
        with pytest.raises(FewShotError, match="no prompt among the 1"):
            gallery.search(gone)


def test_words_are_found_in_any_form(gallery):
    gallery.update()
    assert [e.path.name for e in gallery.search("castles")] == ["castle.png"]
    assert gallery.search("SNOW fox")[0].parameters["seed"] == 42
    assert [e.path.name for e in gallery.search("cast*")] == ["castle.png"]
    assert len(gallery.search()) == 2 and len(gallery.search(count=1)) == 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_no_keywords_are_an_operator(tmp_path_factory, words):
    folder = tmp_path_factory.getbasetemp() / "one"
    folder.mkdir(exist_ok=True)
    if not (folder / "a.png").is_file():
        png(folder / "a.png", parameters=A1111)
    gallery = Gallery(folder, folder / "index.sqlite")
    gallery.update()
    try:
        assert len(gallery.search(words)) == 1
    except FewShotError as error:
        assert "use fewer or other words" in str(error)


def test_looks_are_compared_once(gallery):
    gallery.update()
    clip = Colours()
    assert gallery.search(clip=clip, like="something blue")[0].path.name == "fox.png"
    assert gallery.search(clip=clip, like=Image.new("RGB", (4, 4), "red"))[0].path.name == "castle.png"
    assert clip.seen == 3, "each picture with a prompt once, and the picture asked for"


def test_what_does_not_hold_the_words_is_not_found_by_its_look(gallery):
    png(gallery.folder / "two.png", prompt=json.dumps(graph("a castle and a fox")))
    gallery.update()
    clip = Colours()
    assert [e.path.name for e in gallery.search("castle", clip, "blue")][-1] != "fox.png"
    assert {e.path.name for e in gallery.search("castle", clip, "blue")} == {"castle.png", "two.png"}
    assert [e.path.name for e in gallery.search("snow", clip, "red")] == ["fox.png"]
    seen = clip.seen
    with pytest.raises(FewShotError, match='no prompt among the 3 .* matches "zebra"'):
        gallery.search("zebra", clip, "red")
    assert clip.seen == seen


def test_pixels_that_are_damaged_are_left_out_of_looks(gallery, caplog):
    path, about = gallery.folder / "castle.png", PngImagePlugin.PngInfo()
    about.add_text("prompt", json.dumps(graph()))
    Image.effect_noise((64, 64), 80).save(path, pnginfo=about)
    path.write_bytes(path.read_bytes()[:-2000])
    gallery.update()
    assert [e.path.name for e in gallery.search(clip=Colours(), like="red")] == ["fox.png"]
    assert "castle.png" in caplog.text
    assert gallery.search("castle")


def test_one_prompt_is_one_result(gallery):
    for number in range(3):
        png(gallery.folder / f"again{number}.png", prompt=json.dumps(graph()))
    gallery.update()
    assert len(gallery.search("castle")) == 1


def test_links_out_of_the_folder_and_folders_left_out_are_not_read(gallery, tmp_path):
    outside = png(tmp_path / "secret.png", prompt=json.dumps(graph("a secret")))
    (gallery.folder / "link.png").symlink_to(outside)
    (gallery.folder / "linked").symlink_to(tmp_path)
    assert gallery.update().total == 4
    assert Gallery(gallery.folder, tmp_path / "b.sqlite", ("deep",)).update().total == 3


def test_one_odd_file_does_not_stop_the_others(gallery):
    png(gallery.folder / "half.png", prompt=json.dumps(graph("dog \ud800")))
    png(gallery.folder / "minus.png", prompt=json.dumps(graph(negative="\udfff cat")))
    png(gallery.folder / "seed.png", prompt=json.dumps(graph("a tower", scheduler="\ud8ff")))
    png(gallery.folder / "chance.png", prompt=json.dumps(graph("__a__ {\ud800|b}", sampler="\ud800")))
    for name in (b"x\xff.png", b"x\xfe.png"):
        with open(os.path.join(os.fsencode(gallery.folder), name), "wb") as file:
            file.write((gallery.folder / "castle.png").read_bytes())
    os.mkfifo(gallery.folder / "pipe.png")
    (gallery.folder / "loop.png").symlink_to(gallery.folder / "loop.png")
    (gallery.folder / "round").symlink_to(gallery.folder)
    state, update = gallery.state(), gallery.update()
    assert (update.total, update.with_prompt, len(update.broken)) == (11, 2, 7)
    told = "\n".join(update.broken).encode().decode()
    assert told.count("half a letter (U+D") == 3 and told.count("no UTF-8: give it another") == 2
    assert r"x\udcff.png" in told and "pipe.png is a pipe" in told
    again = gallery.update()
    assert (again.added, again.removed, again.broken) == (0, 0, update.broken) and gallery.state() == state
    assert [entry.path.name for entry in gallery.search("castle")] == ["castle.png"]
    os.unlink(os.path.join(os.fsencode(gallery.folder), b"x\xff.png"))
    assert gallery.update().removed == 1 and gallery.state() != state


def test_a_damaged_index_is_made_anew(gallery, caplog):
    gallery.update()
    gallery.file.write_bytes(b"no database at all" * 100)
    assert gallery.update().added == 4 and "made anew" in caplog.text


def test_an_index_without_its_tables_is_made_anew(gallery, caplog):
    gallery.update()
    with closing(sqlite3.connect(gallery.file)) as base, base:
        base.execute("DROP TABLE prompts")
    assert gallery.update().added == 4 and "made anew" in caplog.text


def test_an_index_that_is_only_in_use_is_not_thrown_away(gallery, monkeypatch):
    gallery.update()
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda file: connect(file, timeout=0.05))
    with closing(connect(gallery.file)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(FewShotError, match="locked.*close other programs"):
            gallery.search("castle")
    assert gallery.update().added == 0


def test_a_folder_in_the_index_s_place_is_told(gallery, tmp_path):
    (tmp_path / "taken.sqlite").mkdir()
    with pytest.raises(FewShotError, match="taken.sqlite.*unable to open.*remove what lies there"):
        Gallery(gallery.folder, tmp_path / "taken.sqlite").update()
    (tmp_path / "file").write_text("x")
    with pytest.raises(FewShotError, match="cannot be used"):
        Gallery(gallery.folder, tmp_path / "file" / "index.sqlite").update()


def test_bad_input_is_told(gallery, tmp_path):
    gallery.update()
    with pytest.raises(FewShotError, match="there is no folder"):
        Gallery(tmp_path / "nowhere", tmp_path / "c.sqlite")
    with pytest.raises(FewShotError, match="choose from 1 to 1000"):
        gallery.search("castle", count=0)
    (tmp_path / "empty").mkdir()
    empty = Gallery(tmp_path / "empty", tmp_path / "d.sqlite")
    assert empty.update().total == 0
    with pytest.raises(FewShotError, match="holds a prompt"):
        empty.search()


def test_fusion_rewards_what_both_rank_high():
    words = Ranking.of([(1, 3.0), (2, 2.0), (3, 1.0), (9, 0.5)])
    both = reciprocal_rank_fusion([words, Ranking.of([(3, 9.0), (2, 8.0), (1, 0.0)])])
    assert both.numbers.tolist() == [1, 2, 3, 9]
    expected = [1 / 60 + 1 / 62, 2 / 61, 1 / 62 + 1 / 60, 1 / 63]
    assert both.scores == pytest.approx(expected) and both.numbers[both.order()].tolist() == [1, 3, 2, 9]
    assert query_of('cat AND "dog" red* *') == '"cat" "AND" "dog" "red"*'


# -------------------------------------------------------------------------------------------------------- rewriting


@pytest.mark.parametrize(
    "prompt, concept, expected, replaced",
    [
        ("a dog on a hill", DOG, "a sks dog on a hill", "dog"),
        ("two dogs, a dog", DOG, "two sks dog, a dog", "dogs"),
        ("portrait of an owl, dark", DOG, "portrait of a sks dog, dark", "owl"),
        ("a castle at dusk", DOG, "a photo of a sks dog, a castle at dusk", ""),
        ("a sks dog at home", DOG, "a sks dog at home", ""),
        ("a cat <lora:x:1>, embedding:bad BREAK sharp", Concept("sks", "cat", "grey"), "a sks grey cat, sharp", "cat"),
        ("an old mug", Concept("zwx", "cup"), "an old zwx cup", "mug"),
        ("", DOG, "sks dog", ""),
        ("masterpiece, (best:1.4), cat_girl", DOG, "a photo of a sks dog, masterpiece, (best:1.4), cat_girl", ""),
        ("1girl, fox_ears, castle", DOG, "a photo of a sks dog, 1girl, fox_ears, castle", ""),
        ("cat_girl, a fox runs, fox_ears", DOG, "cat_girl, a sks dog runs, fox_ears", "fox"),
        ("2cats, cat2, _cat_, catgirl", DOG, "a photo of a sks dog, 2cats, cat2, _cat_, catgirl", ""),
    ],
)
def test_the_subject_takes_the_place_of_its_kind(prompt, concept, expected, replaced):
    made = rewrite(prompt, concept)
    assert (made.text, made.replaced) == (expected, replaced)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_prompt_gets_the_subject_once(prompt):
    made = rewrite(prompt, DOG).text
    assert "sks dog" in made or "sks" in prompt.lower()
