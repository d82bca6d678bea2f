"""Which of a set's concepts is compared, with which pictures, and what is refused before anything is drawn."""

from pathlib import Path

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Part, Picture, Prompt, PromptSet, Sample, TrainingSet
from comfyui_fewshot.evaluation.match_prompts import check_kind, match_concept
from comfyui_fewshot.evaluation.prompts.lists import BEINGS, INSTRUCTBOOTH, OBJECTS, REVERSION

CAT, CAR = Concept("sks", "cat"), Concept("zwx", "car")
INSIDE = Concept("<R>", "", "inside", kind="relation")


def picture(name):
    return Picture(Path(f"{name}.png"), name, 64, 64)


def sample(name, concept=0, **more):
    return Sample(picture(name), "", concept=concept, **more)


BOTH = TrainingSet(
    (
        sample("cat"),
        sample("car", 1),
        sample("pasted", 1, pasted=True),
        sample("composite", 0, others=(Part(1, picture("mask")),)),
        sample("prior", 0, role="prior"),
    ),
    (CAT, CAR),
)


def prompts(*pairs):
    return PromptSet(tuple(Prompt(*pair) for pair in pairs))


@pytest.mark.parametrize(
    ("asked", "wanted", "name"),
    [
        (prompts(("a sks cat at night", "a cat at night")), CAT, "cat"),
        (prompts(("a zwx car at night", "a car at night")), CAR, "car"),
        (prompts(("a car before a zwx car", "a car")), CAR, "car"),
        (prompts(("two cars", "two cars")), CAR, "car"),
        (prompts(("a {trigger} at night", "a cat at night")), CAT, "cat"),
    ],
)
def test_of_several_subjects_the_one_that_is_asked_for(asked, wanted, name):
    concept, references, told = match_concept(BOTH, asked)
    assert concept is wanted and [one.image.key for one in references] == [name]
    other = CAR if wanted is CAT else CAT
    assert len(told) == 1 and f"likeness to {other.phrase}" in told[0] and wanted.phrase in told[0]


def test_one_subject_is_told_nothing_of():
    assert match_concept(TrainingSet((sample("cat"),), (CAT,)), prompts(("a sks cat", "a cat")))[2] == ()


@pytest.mark.parametrize(
    ("pictures", "asked", "said"),
    [
        (TrainingSet((), (CAT,)), prompts(("a cat", "a cat")), "holds no picture of the subject"),
        (TrainingSet((BOTH.samples[3],), (CAT, CAR)), prompts(("a sks cat", "a cat")), "sks cat alone, only 1 comp"),
        (BOTH, prompts(("a concatenation", "a concatenation")), "no prompt names the cat that the set shows"),
        (TrainingSet((sample("r"),), (INSIDE,)), prompts(("a cat", "a cat")), "does not say what is inside what"),
    ],
)
def test_what_cannot_be_compared_is_refused(pictures, asked, said):
    with pytest.raises(FewShotError, match=said):
        match_concept(pictures, asked)


def test_prompts_of_relations_and_of_subjects_are_not_taken_for_each_other():
    with pytest.raises(FewShotError, match=f"{REVERSION} asks for relations, but the set shows a subject \\(sks cat"):
        check_kind(REVERSION, CAT)
    for name in (OBJECTS, BEINGS, *INSTRUCTBOOTH.values()):
        check_kind(name, CAT)
        with pytest.raises(FewShotError, match=f"{name} asks for subjects, but the set shows a relation \\(<R>"):
            check_kind(name, INSIDE)
    check_kind(REVERSION, INSIDE)
    for concept in (CAT, INSIDE):
        check_kind("own lines", concept)
        check_kind("refinement", concept)
