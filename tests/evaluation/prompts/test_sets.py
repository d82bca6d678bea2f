"""Prompt sets: the papers' sizes, the subject's words in the right place, and named reasons for what is left out."""

import json

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept
from comfyui_fewshot.evaluation.prompts.lists import (  # fmt: skip
    BEINGS,
    INSTRUCTBOOTH,
    OBJECTS,
    POCKETS,
    RECONSTRUCTED,
    RELATIONS,
    REVERSION,
)
from comfyui_fewshot.evaluation.prompts.sets import insert_phrase, lines_of, prompt_set
from comfyui_fewshot.pocket.models.weights import WEIGHTS

CAT, OWL = Concept("sks", "cat"), Concept("", "owl", "brown")


@pytest.mark.parametrize("name", [OBJECTS, BEINGS])
def test_dreambench_has_twenty_five_different_prompts(name):
    lines = lines_of(name)
    assert len(lines) == len(set(lines)) == 25 and all(line.count("{trigger}") == 1 for line in lines)


def test_instructbooth_has_five_activities_for_each_kind_and_is_marked():
    for title in INSTRUCTBOOTH.values():
        assert len(lines_of(title)) == 5 and title in RECONSTRUCTED
    assert OBJECTS not in RECONSTRUCTED and REVERSION in RECONSTRUCTED


@pytest.mark.parametrize("relation", RELATIONS)
def test_reversion_asks_each_pair_once(relation):
    lines = lines_of(REVERSION, relation)
    assert len(lines) == len(set(lines)) and len(lines) in (90, 100)
    made, left_out = prompt_set(lines, Concept("<R>", "", RELATIONS[relation][0], kind="relation"), 1000)
    assert not left_out and all("<R>" in p.text and RELATIONS[relation][0] in p.stripped for p in made.prompts)


def test_ten_different_things_come_first():
    """A bounded set is as varied as it can be."""
    first = [line.split("{trigger}") for line in lines_of(REVERSION, "inside")[:10]]
    assert len({a for a, _ in first}) == len({b for _, b in first}) == 10


def test_the_pocket_s_words_are_known_to_it():
    words = {word for line in lines_of(POCKETS) for word in line.replace("{trigger}", "").split()}
    known = json.loads((WEIGHTS / "tokenizer" / "vocab.json").read_text())
    assert {f"{word}</w>" for word in words} <= set(known)


def test_words_of_the_subject():
    made, _ = prompt_set(["a {trigger} in the snow", "A {trigger}", "sks cat, {trigger}"], CAT, 10)
    assert [p.text for p in made.prompts] == ["a sks cat in the snow", "A sks cat", "sks cat, sks cat"]
    assert [p.stripped for p in made.prompts] == ["a cat in the snow", "A cat", "cat, cat"]
    made, _ = prompt_set(["a {trigger} in the snow", "an owl"], OWL, 10)
    assert [p.text for p in made.prompts] == ["a {trigger} in the snow", "an owl"], "each adapter brings its own"
    assert [p.stripped for p in made.prompts] == ["a brown owl in the snow", "an owl"]


def test_articles():
    assert insert_phrase("a {trigger} and an {trigger}", "owl") == "an owl and an owl"
    assert (
        insert_phrase("A {trigger}", "orange cat") == "An orange cat"
        and insert_phrase("the {trigger}", "owl") == "the owl"
    )


def test_lines_without_the_noun_are_left_out_by_name():
    made, left_out = prompt_set(["", "# comment", "a {trigger}", "a house", "a {trigger}", "catering"], CAT, 10)
    assert [p.text for p in made.prompts] == ["a sks cat"]
    assert [reason.split('"')[1] for reason in left_out] == ["a house", "catering"] and "the cat" in left_out[0]
    with pytest.raises(FewShotError, match='no prompt to draw; left out, .* "a house"'):
        prompt_set(["a house"], CAT, 10)
    with pytest.raises(FewShotError, match="no prompt to draw. Write one a line"):
        prompt_set([], CAT, 10)
    with pytest.raises(FewShotError, match="noun is empty"):
        prompt_set(["a {trigger}"], Concept("", ""), 10)


def test_a_thousand_prompts_are_bounded():
    made, left_out = prompt_set([f"a cat number {n}" for n in range(1000)], CAT, 50)
    assert len(made.prompts) == 50 and left_out == ("950 of 1000 prompts are beyond the bound of 50",)


def test_unknown_sets_are_named():
    with pytest.raises(FewShotError, match="no prompt set 'dream'; choose one of dreambench objects"):
        lines_of("dream")
    with pytest.raises(FewShotError, match="no relation 'eats'"):
        lines_of(REVERSION, "eats")
