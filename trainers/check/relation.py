"""The check of a relation: the word beside things that its pictures do not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...core.errors import FewShotError
from ...core.text.prompts import prompt_of
from ...core.text.words import find_noun
from ...core.values import BaseModelRef, Prompt, TrainingSet
from ...evaluation.learned.check import Check
from ...evaluation.learned.measure import Column
from ...evaluation.learned.related import verdict_of_relation
from ...evaluation.learned.size import check_size
from ...evaluation.learned.verdict import Share
from ...evaluation.prompts.lists import TRIGGER
from ...evaluation.prompts.relation import TEMPLATE, relation_lines
from ..method import TrainingResult
from ..relation.gain import last_gain
from ..relation.settings import RelationSettings
from .common import Checker, floor, trained_evaluations

FIRST = ("cat", "dog", "bird", "fish", "rabbit", "horse", "monkey", "teddy bear")
SECOND = ("cup", "car", "house", "boat", "bottle", "chair", "box", "table", "basket", "tree")


def relation_check(
    base: BaseModelRef, pictures: TrainingSet, settings: RelationSettings, result: TrainingResult, checker: Checker
) -> Check:
    """Whether the word of `result` explains its pictures, and leaves room for other things."""
    size = check_size(trained_evaluations(result, priors=False), None)
    prompts = [(prompt, 0) for prompt in other_things(pictures, size.prompts, checker.knows)]
    gain = gain_of(result.readings)
    columns = [floor(base), Column("word", base, result.adapter)]
    return checker.check(columns, prompts, ({}, ""), settings.resolution, partial(verdict_of_relation, gain=gain))


def gain_of(readings: Mapping[str, Any]) -> Share | None:
    """The share of the pictures' error that the word takes away after the last step; None where it was not read."""
    gain = last_gain(readings)
    return None if gain is None else Share(gain.share, gain.error)


def other_things(pictures: TrainingSet, count: int, known: Callable[[str], bool]) -> list[Prompt]:
    """`count` prompts of the relation between things that are known words: first between those that no caption names,
    then with one of them, then between any.

    Raises:
        FewShotError: there are no two such things.
    """
    captions = " / ".join(sample.caption for sample in pictures.references)
    things = [[thing for thing in side if known(thing)] for side in (FIRST, SECOND)]
    free = [[thing for thing in side if not find_noun(thing, captions)] for side in things]
    ways = ((free[0], free[1]), (free[0], things[1]), (things[0], free[1]), (things[0], things[1]))
    lines = list(dict.fromkeys(line for way in ways if all(way) for line in relation_lines(TEMPLATE, *way)))
    if not lines:
        raise FewShotError("the CLIP knows none of the things that the word would be tried on")
    word = pictures.concepts[0].identifier
    rows = [lines[number % len(lines)].replace(TRIGGER, word) for number in range(count)]
    return [prompt_of(row, pictures.concepts) for row in rows]
