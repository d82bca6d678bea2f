"""Prompts for refinement: both forms at the asked share, and held-out activities that nobody learns from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept
from comfyui_fewshot.evaluation.prompts.lists import ACTIVITIES, REFINING
from comfyui_fewshot.evaluation.prompts.refinement import refinement_prompts
from comfyui_fewshot.evaluation.prompts.sets import for_trigger

CAT = Concept("sks", "owl", "brown")


@given(st.floats(0, 1), st.integers(2, 30), st.floats(0, 1))
def test_the_share_is_kept_and_nothing_held_out_is_learned(share, count, held_out):
    prompts = refinement_prompts([f"doing {i}" for i in range(count)], CAT, share, held_out).prompts
    learned = [prompt for prompt in prompts if prompt.split == "train"]
    unseen = [prompt for prompt in prompts if prompt.split == "held-out"]
    named = sum("sks" in prompt.text for prompt in learned)
    assert learned and unseen and abs(named - share * len(learned)) <= 1
    assert not {p.stripped for p in learned} & {p.stripped for p in unseen}
    assert all("sks" in prompt.text for prompt in unseen)


def test_both_forms_read_well_and_are_stripped():
    prompts = refinement_prompts(["playing", "flying"], CAT, 0.5, 0.5).prompts
    texts = {prompt.text for prompt in prompts}
    (activity,) = {prompt.text.split()[-1] for prompt in prompts if prompt.split == "train"}
    assert {f"a sks brown owl {activity}", f"a brown owl {activity}"} < texts
    assert all(prompt.stripped == f"a brown owl {prompt.text.split()[-1]}" for prompt in prompts)
    open_ = refinement_prompts(["playing", "flying"], Concept("", "owl"), 1.0, 0.5)
    assert {prompt.text for prompt in open_.prompts} == {"a {trigger} playing", "a {trigger} flying"}
    assert {prompt.stripped for prompt in open_.prompts} == {"an owl playing", "an owl flying"}
    assert {prompt.text for prompt in for_trigger(open_, "ohwx owl").prompts} == {
        "an ohwx owl playing",
        "an ohwx owl flying",
    }


def test_no_kind_learns_what_is_measured():
    measured = {words for activities in ACTIVITIES.values() for words in activities}
    for activities in REFINING.values():
        assert len(set(activities)) == 20 and not measured & set(activities)


@pytest.mark.parametrize(
    ("activities", "concept", "share", "message"),
    [
        (["playing"], CAT, 0.5, "1 activity"),
        (["playing", "flying"], Concept("sks", ""), 0.5, "noun is empty"),
        (["playing", "flying"], CAT, 1.5, "share"),
    ],
)
def test_what_gives_no_prompts_is_refused(activities, concept, share, message):
    with pytest.raises(FewShotError, match=message):
        refinement_prompts(activities, concept, share)
