"""The drawn world: deterministic, what the base never sees, captions that tell the truth."""

import numpy as np
import pytest

from comfyui_fewshot.pocket.world import drawing, pictures, world

SCENES = [world.scene_of(31, i) for i in range(3000)]


def test_a_scene_is_a_function_of_seed_and_number():
    assert world.scene_of(5, 17) == world.scene_of(5, 17) != world.scene_of(5, 18)
    first, second = (drawing.pixels(world.scene_of(5, 17)) for _ in range(2))
    assert np.array_equal(first, second) and first.shape == (64, 64, 3)


def test_the_base_never_sees_a_subject_or_a_badge():
    things = [thing for scene in SCENES for thing in scene.things]
    assert not world.HELD_OUT_LOOKS & {thing.look for thing in things}
    assert all(thing.badge is None for thing in things)
    patterns = {subject.thing.pattern for subject in world.SUBJECTS}
    assert patterns <= {thing.pattern for thing in things}, "the base must know the patterns on other things"


def test_twelve_subjects_at_least_and_some_rare():
    assert len(world.SUBJECTS) >= 12 and len({s.name for s in world.SUBJECTS}) == len(world.SUBJECTS)
    assert 3 <= sum(subject.rare for subject in world.SUBJECTS) < len(world.SUBJECTS)


def test_hidden_relations_have_their_share_and_no_word():
    hidden = [scene for scene in SCENES if scene.layout in world.HIDDEN]
    assert 0.10 <= len(hidden) / len(SCENES) <= 0.15
    assert {scene.layout for scene in hidden} == set(world.HIDDEN) and len(world.HIDDEN) >= 3
    words = {w for pair in world.LAYOUTS.values() for side in pair for phrase in side for w in phrase.split()}
    secret = {word for phrase in world.HIDDEN.values() for word in phrase.split()} - {"of", "to", "next"}
    for i, scene in enumerate(hidden):
        caption = world.caption(scene, world.rng_of(1, i))
        first, second = (thing.noun for thing in scene.things)
        middle = caption.split(first if caption.index(first) < caption.index(second) else second, 1)[1]
        assert " and " in middle and not secret & set(caption.split())
        joined = middle.split(second if caption.index(first) < caption.index(second) else first)[0]
        assert not words & set(joined.split())


def test_ten_prepositions_at_least():
    assert len({word for pair in world.LAYOUTS.values() for side in pair for word in side}) >= 10


def test_captions_name_what_is_there():
    for i, scene in enumerate(SCENES[:500]):
        caption = world.caption(scene, world.rng_of(2, i), with_look=1, placed=1)
        for thing in scene.things:
            assert thing.noun in caption and world.look_words(thing) in caption
        assert world.PLACES[scene.place] in caption
        assert set(caption.split()) <= set(world.vocabulary())


def test_masks_are_disjoint_and_stand_on_the_things():
    for scene in SCENES[:80]:
        _, masks = drawing.render(scene)
        areas = [np.asarray(mask) > 0 for mask in masks]
        assert len(areas) == len(scene.things) and all(area.sum() > 90 for area in areas)
        if len(areas) == 2:
            assert not (areas[0] & areas[1]).any()
    lone = [scene for scene in SCENES[:200] if scene.layout == "one"]
    for scene in lone:
        rows, columns = np.nonzero(np.asarray(drawing.render(scene)[1][0]))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 0.4 * world.SIZE


def test_stacked_things_stand_on_each_other():
    for i in range(40):
        rng = world.rng_of(9, i)
        things = world.Thing("cat", ("red",)), world.Thing("house", ("blue",))
        upper, lower = (np.asarray(m) for m in drawing.render(world.arrange(rng, things, "snow", "stacked"))[1])
        assert np.nonzero(upper)[0].mean() < np.nonzero(lower)[0].mean() - 15
    with pytest.raises(ValueError, match="does not take"):
        world.arrange(world.rng_of(1, 1), things, "snow", "one")


def test_subject_folders_are_what_a_person_would_have(tmp_path):
    pictures.write_subject(tmp_path, "bird_dotted", 3)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 9 and "bird_dotted_00_mask.png" in names
    assert (tmp_path / "bird_dotted_00.txt").read_text().startswith("a photo of a sks bird")
    with pytest.raises(ValueError, match="no subject"):
        pictures.write_subject(tmp_path, "dog", 3)
