"""Which concept of a training set the prompts name, and whether they name it at all; checked before sampling."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import FewShotError
from ..core.text.words import find_noun, find_word
from ..core.values import Concept, PromptSet, Sample, TrainingSet
from .metrics.relation import entities
from .prompts.lists import DREAMBENCH_OF, INSTRUCTBOOTH, REVERSION
from .prompts.sets import POCKETS

SUBJECTS = (*DREAMBENCH_OF, *INSTRUCTBOOTH.values(), POCKETS)


def match_concept(training_set: TrainingSet, prompts: PromptSet) -> tuple[Concept, tuple[Sample, ...], tuple[str, ...]]:
    """The concept that the prompts name, its references (those that show it alone), and a line on what is left out.

    Of a set of several it is the first whose identifier stands in a prompt, else the first whose noun does, else the
    first one. What was pasted from a reference is no reference.

    Raises:
        FewShotError: the concept has no reference, or no prompt asks for it.
    """
    number = _named_concept(training_set.concepts, prompts)
    concept = training_set.concepts[number]
    if not training_set.references:
        raise FewShotError("the set holds no picture of the subject: connect Subject Pictures")
    samples = [sample for sample in training_set.references if sample.concept == number]
    alone = tuple(sample for sample in samples if not sample.others and not sample.pasted)
    if not alone:
        raise FewShotError(
            f"the set holds no picture that shows {concept.phrase} alone, only {len(samples)} composites: connect the "
            "set that they were made from"
        )
    check_prompts(prompts, concept)
    left_out: tuple[str, ...] = ()
    if len(training_set.concepts) > 1:
        others = ", ".join(other.phrase for other in training_set.concepts if other is not concept)
        left_out = (
            f"likeness to {others}: pictures are compared with {concept.phrase}, whom the prompts name; connect "
            "prompts about another one to measure it",
        )
    return concept, alone, left_out


def _named_concept(concepts: Sequence[Concept], prompts: PromptSet) -> int:
    """The index of the concept that the prompts name."""
    for word, find in (("identifier", find_word), ("noun", find_noun)):
        for number, concept in enumerate(concepts):
            if any(find(getattr(concept, word), prompt.text) for prompt in prompts.prompts):
                return number
    return 0


def check_prompts(prompts: PromptSet, concept: Concept) -> None:
    """Raises FewShotError unless prompts ask for the concept: for the subject's noun, or for the relation's words."""
    if not prompts.prompts:
        return
    if concept.kind == "relation":
        if concept.description.strip():
            for prompt in prompts.prompts:
                entities(prompt.words, concept.description)
    elif concept.noun and not any(find_noun(concept.noun, prompt.words) for prompt in prompts.prompts):
        raise FewShotError(
            f'no prompt names the {concept.noun} that the set shows: "{prompts.prompts[0].words}"; give Prompt Set '
            "the same SET"
        )


def check_kind(name: str, concept: Concept) -> None:
    """Raises FewShotError where the prompt set `name` asks for relations and `concept` is a subject, or the reverse."""
    if name == REVERSION and concept.kind != "relation":
        raise FewShotError(
            f"{REVERSION} asks for relations, but the set shows a subject ({concept.phrase}): choose a set of prompts "
            "for subjects, or connect Relation Pictures"
        )
    if name in SUBJECTS and concept.kind == "relation":
        raise FewShotError(
            f"{name} asks for subjects, but the set shows a relation ({concept.phrase}): choose {REVERSION} or your "
            "own lines"
        )
