"""The bench of subjects: what is asked for is what the world draws, and what is pasted carries its masks."""

import numpy as np
import pytest

from comfyui_fewshot.augmentation.images.load import load_mask, load_picture
from comfyui_fewshot.benchmarks.harness.statistics import gain, ratio
from comfyui_fewshot.benchmarks.subject import sets
from comfyui_fewshot.benchmarks.subject.training_cases import class_checks
from comfyui_fewshot.pocket.models.judge import SceneReading, ThingReading
from comfyui_fewshot.pocket.world import world


def thing_reading(noun, accessory=None):
    return ThingReading(noun, "plain", frozenset({"red"}), accessory)


def test_prompts_are_in_the_worlds_words_and_spare_a_place():
    known = set(world.vocabulary())
    checks = sets.prompt_checks("cat", "sks cat", without=("beach",))
    assert len(checks) == 12 and all(set(check.prompt.split()) <= known for check in checks)
    assert not any("beach" in check.prompt for check in checks) and {check.place for check in checks} == set(
        world.PLACES
    ) - {"beach"}
    assert {bool(a.accessory) + 2 * bool(a.layout) for a in checks} == {0, 1, 2}
    assert class_checks(checks, "cat")[0].prompt == checks[0].prompt.replace("sks ", "")


@pytest.mark.parametrize("noun", ["cat", "boat"])
def test_each_prompt_is_met_by_its_own_scene_only(noun):
    """The relation's words, read as the world's captions use them, give the order of the things."""
    for check in sets.prompt_checks(noun, f"sks {noun}"):
        if check.layout is None:
            things, layout = (thing_reading(noun, check.accessory),), "one"
        else:
            word = next(w for side in world.LAYOUTS[check.layout] for w in side if f"{noun} {w} a" in check.prompt)
            turned = word in world.LAYOUTS[check.layout][1] and word not in world.LAYOUTS[check.layout][0]
            pair = (thing_reading(noun), thing_reading(check.other))
            things, layout = pair[::-1] if turned else pair, check.layout
        right = SceneReading(things, check.place, layout)
        assert check.passes(right, noun)
        assert not check.passes(SceneReading(things, "elsewhere", layout), noun)
        if check.accessory:
            assert not check.passes(SceneReading((thing_reading(noun),), check.place, layout), noun)
        if check.layout:
            assert not check.passes(SceneReading(things[:1], check.place, "one"), noun)
        if check.layout in ("stacked", "behind"):
            assert not check.passes(SceneReading(things[::-1], check.place, layout), noun)


def test_composites_carry_the_mask_of_each(tmp_path):
    """Under each mask lie its subject's own colours; a seed gives the same pictures again."""
    two = [sets.references(tmp_path, "cat_striped"), sets.references(tmp_path, "car_patched", None, "zwx")]
    joined = sets.combined_set(tmp_path, two, seed=3)
    made = [sample for sample in joined.references if sample.others]
    assert len(joined.references) == 8 * 9 and 16 <= len(made) <= 48
    assert joined.key == sets.combined_set(tmp_path, two, seed=3).key != sets.combined_set(tmp_path, two, seed=4).key
    for sample in made:
        pixels = np.asarray(load_picture(sample.image)).astype(int)
        cat, car = (np.asarray(load_mask(sample.masks[number])) > 250 for number in (0, 1))
        assert not (cat & car).any() and cat.any() and car.any()
        orange = (pixels[..., 0] > 200) & (pixels[..., 2] < 100)
        assert (orange & cat).sum() > 0.2 * cat.sum() and not (orange & car).any()
        assert sample.caption in ("a photo of a sks cat and a zwx car", "a photo of a zwx car and a sks cat")
    assert not any(sample.pasted for sample in sets.combined_set(tmp_path, two, 3, composites=False).samples)


def test_a_folder_of_pictures_is_written_once(tmp_path):
    """A second process finds it whole, and one that was slower throws its own away."""
    first = sets.references(tmp_path, "cat_striped")
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert sets.references(tmp_path, "cat_striped").key == first.key
    sets.write_once(tmp_path / "new", lambda folder: (folder.mkdir(), (tmp_path / "new" / "x").mkdir(parents=True)))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")} == times
    assert [path.name for path in tmp_path.glob("new*")] == ["new"]


def test_numbers():
    groups = ["a", "a", "b", "b"]
    checks = gain("x", [1, 1, 1, 0], [0, 0, 1, 0], groups, goal=15)
    assert checks.value == 50 and checks.interval == (0, 100) and checks.met is False
    held = ratio("drift", [0.1, 0.0], [0.5, 0.5], goal=0.33)
    assert held.value == pytest.approx(0.1) and held.met and held.interval == (0.0, 0.2)
    assert ratio("drift", [0.0], [0.0]).value == 1.0
