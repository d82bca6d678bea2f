"""Presets set values that exist, all that any of them covers, and nothing that is not shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.trainers.subject.presets import COVERED, CUSTOM, NAMES, PRESETS, with_preset
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

DEFAULTS = vars(SubjectSettings())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_set_of_valid_settings(name):
    settings = SubjectSettings.from_mapping(with_preset(name, {}))
    assert vars(settings) == DEFAULTS | dict(PRESETS[name])
    assert set(PRESETS[name]) == set(COVERED)


def test_presets_differ_and_none_is_the_default():
    keys = {SubjectSettings.from_mapping(with_preset(name, {})).key() for name in NAMES}
    assert len(keys) == len(NAMES)


def test_presets_leave_the_person_s_values_alone():
    assert not {"steps", "seed", "resolution", "batch_size", "micro_batch", "save_every", "preview_every"} & set(
        COVERED
    )
    assert with_preset("Style", {"steps": 7, "rank": 16})["steps"] == 7


@given(st.sampled_from(list(PRESETS)))
def test_the_preset_s_own_values_and_the_defaults_run_alike(name):
    shown = with_preset(name, DEFAULTS | dict(PRESETS[name]))
    assert shown == with_preset(name, DEFAULTS) == with_preset(name, shown)


def test_other_values_are_refused_and_custom_takes_all():
    with pytest.raises(
        FewShotError, match="the preset Style sets rank to 32, but rank is 8. Choose the preset 'custom'"
    ):
        with_preset("Style", {"rank": 8})
    assert with_preset(CUSTOM, {"rank": 8}) == {"rank": 8}
    with pytest.raises(FewShotError, match="no preset 'style'; did you mean 'Style'"):
        with_preset("style", {})
