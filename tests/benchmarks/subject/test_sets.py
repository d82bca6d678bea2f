"""The bench of subjects: what is asked for is what the world draws, and what is pasted carries its masks."""

import numpy as np
import pytest

from comfyui_fewshot.augmentation.images.load import load_mask, load_picture
from comfyui_fewshot.benchmarks.harness.statistics import gain, ratio
from comfyui_fewshot.benchmarks.subject import sets
from comfyui_fewshot.benchmarks.subject.lessons import of_class
from comfyui_fewshot.pocket.models.judge import Reading, Seen
from comfyui_fewshot.pocket.world import world


def seen(noun, accessory=None):
    return Seen(noun, "plain", frozenset({"red"}), accessory)


def test_prompts_are_in_the_worlds_words_and_spare_a_place():
    known = set(world.vocabulary())
    found = sets.asks("cat", "sks cat", without=("beach",))
    assert len(found) == 12 and all(set(ask.prompt.split()) <= known for ask in found)
    assert not any("beach" in ask.prompt for ask in found) and {ask.place for ask in found} == set(world.PLACES) - {
        "beach"
    }
    assert {bool(a.accessory) + 2 * bool(a.layout) for a in found} == {0, 1, 2}
    assert of_class(found, "cat")[0].prompt == found[0].prompt.replace("sks ", "")


@pytest.mark.parametrize("noun", ["cat", "boat"])
def test_each_prompt_is_met_by_its_own_scene_only(noun):
    """The relation's words, read as the world's captions use them, give the order of the things."""
    for ask in sets.asks(noun, f"sks {noun}"):
        if ask.layout is None:
            things, layout = (seen(noun, ask.accessory),), "one"
        else:
            word = next(w for side in world.LAYOUTS[ask.layout] for w in side if f"{noun} {w} a" in ask.prompt)
            turned = word in world.LAYOUTS[ask.layout][1] and word not in world.LAYOUTS[ask.layout][0]
            pair = (seen(noun), seen(ask.other))
            things, layout = pair[::-1] if turned else pair, ask.layout
        right = Reading(things, ask.place, layout)
        assert ask.met(right, noun)
        assert not ask.met(Reading(things, "elsewhere", layout), noun)
        if ask.accessory:
            assert not ask.met(Reading((seen(noun),), ask.place, layout), noun)
        if ask.layout:
            assert not ask.met(Reading(things[:1], ask.place, "one"), noun)
        if ask.layout in ("stacked", "behind"):
            assert not ask.met(Reading(things[::-1], ask.place, layout), noun)


def test_composites_carry_the_mask_of_each(tmp_path):
    """Under each mask lie its subject's own colours; a seed gives the same pictures again."""
    two = [sets.references(tmp_path, "cat_striped"), sets.references(tmp_path, "car_patched", None, "zwx")]
    joined = sets.together(tmp_path, two, seed=3)
    made = [sample for sample in joined.references if sample.others]
    assert len(joined.references) == 8 * 9 and 16 <= len(made) <= 48
    assert joined.key == sets.together(tmp_path, two, seed=3).key != sets.together(tmp_path, two, seed=4).key
    for sample in made:
        pixels = np.asarray(load_picture(sample.image)).astype(int)
        cat, car = (np.asarray(load_mask(sample.masks[number])) > 250 for number in (0, 1))
        assert not (cat & car).any() and cat.any() and car.any()
        orange = (pixels[..., 0] > 200) & (pixels[..., 2] < 100)
        assert (orange & cat).sum() > 0.2 * cat.sum() and not (orange & car).any()
        assert sample.caption in ("a photo of a sks cat and a zwx car", "a photo of a zwx car and a sks cat")
    assert not any(sample.pasted for sample in sets.together(tmp_path, two, 3, composites=False).samples)


def test_a_folder_of_pictures_is_written_once(tmp_path):
    """A second process finds it whole, and one that was slower throws its own away."""
    first = sets.references(tmp_path, "cat_striped")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert sets.references(tmp_path, "cat_striped").key == first.key
    sets._once(tmp_path / "new", lambda folder: (folder.mkdir(), (tmp_path / "new" / "x").mkdir(parents=True)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == times
    assert [path.name for path in tmp_path.glob("new*")] == ["new"]


def test_numbers():
    groups = ["a", "a", "b", "b"]
    found = gain("x", [1, 1, 1, 0], [0, 0, 1, 0], groups, goal=15)
    assert found.value == 50 and found.interval == (0, 100) and found.met is False
    held = ratio("drift", [0.1, 0.0], [0.5, 0.5], goal=0.33)
    assert held.value == pytest.approx(0.1) and held.met and held.interval == (0.0, 0.2)
    assert ratio("drift", [0.0], [0.0]).value == 1.0
