"""Prompts of a relation between own things."""

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept
from comfyui_fewshot.evaluation.prompts.lists import RELATIONS
from comfyui_fewshot.evaluation.prompts.relation import TEMPLATE, relation_lines, things_of
from comfyui_fewshot.evaluation.prompts.sets import prompt_set

INSIDE = Concept("<R>", "", "inside", kind="relation")


def test_every_pair_once_and_different_things_first():
    lines = relation_lines(TEMPLATE, ["cat", "owl", " ", "cat"], ["box", "owl", "cup"])
    assert lines == (
        "a cat {trigger} a box", "a cat {trigger} an owl", "an owl {trigger} a cup", "a cat {trigger} a cup",
        "an owl {trigger} a box",
    )  # fmt: skip
    made, left_out = prompt_set(lines, INSIDE, 10)
    first = made.prompts[0]
    assert not left_out and (first.text, first.stripped) == ("a cat <R> a box", "a cat inside a box")


@pytest.mark.parametrize("word", ["{trigger}", "<R>", "<r>", "<q>"])
def test_the_word_stands_as_it_is_or_as_the_trigger(word):
    assert relation_lines(f"{{first}} {word} {{second}} at night", ["cat"], ["box"], "<q>") == (
        "cat {trigger} box at night",
    )


@pytest.mark.parametrize("name", RELATIONS)
def test_the_benchmark_s_things_can_be_taken(name):
    first, second = things_of(name)
    assert len(relation_lines(TEMPLATE, first, second)) in (90, 100)


def test_bad_input_is_told():
    for template, part in (("{first} on {second}", "trigger"), ("{trigger} {second}", "first"),
                           ("{first} <R> {second} <R>", "trigger")):  # fmt: skip
        with pytest.raises(FewShotError, match=f"{{{part}}} stands in"):
            relation_lines(template, ["cat"], ["box"])
    with pytest.raises(FewShotError, match="no two different things"):
        relation_lines(TEMPLATE, ["cat"], ["cat"])
    with pytest.raises(FewShotError, match="no relation 'eats'"):
        things_of("eats")
