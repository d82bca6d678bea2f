"""Several training sets combined into one, to train several subjects together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...core.errors import FewShotError
from ...core.text.words import same_word
from ...core.values import Concept, Part, Sample, TrainingSet


def combine(sets: Sequence[TrainingSet]) -> TrainingSet:
    """All samples of all sets, in order, with the concepts of all; what is the same in two sets comes once.

    Raises:
        FewShotError: there is no set, or two different concepts go by one identifier.
    """
    if not sets:
        raise FewShotError("there is no set to combine; connect at least one")
    concepts: list[Concept] = []
    samples: dict[Sample, None] = {}
    for each in sets:
        numbers = [_number(concept, concepts) for concept in each.concepts]
        for sample in each.samples:
            others = tuple(Part(numbers[part.concept], part.mask) for part in sample.others)
            samples[replace(sample, concept=numbers[sample.concept], others=others)] = None
    return TrainingSet(samples=tuple(samples), concepts=tuple(concepts))


def _number(concept: Concept, known: list[Concept]) -> int:
    """The index of the concept among the known ones, to which a new one is appended."""
    if concept in known:
        return known.index(concept)
    for other in known:
        if same_word(concept.identifier, other.identifier):
            raise FewShotError(
                f'two sets call different things "{concept.identifier}": "{other.phrase}" and "{concept.phrase}". '
                "Give each subject an identifier of its own, such as sks and ohwx."
            )
    known.append(concept)
    return len(known) - 1
