"""Prompts for refinement: what a subject does, with and without its identifier, learned from or held out.

InstructBooth (Chae et al. 2023) mixes "a [identifier] [noun] [activity]" and "a [noun] [activity]", so that the
activity is learned of the class, where the base knows it, as well as of the subject.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ...core.errors import FewShotError
from ...core.values import Concept, Prompt, PromptSet
from .lists import TRIGGER
from .sets import insert_phrase

FEWEST = 2  # activities: one to learn from, one to hold out


def refinement_prompts(
    activities: Sequence[str], concept: Concept, share: float = 0.5, held_out: float = 0.25
) -> PromptSet:
    """The prompts to learn from in both forms, and those held out, which all name the subject.

    Without an identifier {trigger} stays for the adapter's own.

    Args:
        share: of the prompts to learn from, those that name the subject.
        held_out: the share of the activities that is not learned from; at least one.

    Raises:
        FewShotError: there is no noun, or there are fewer than two activities.
    """
    if not concept.noun:
        raise FewShotError("the noun is empty: say what kind of thing the prompts ask for, such as cat")
    known = list(
        dict.fromkeys(" ".join(line.split()) for line in activities if line.strip() and line.strip()[0] != "#")
    )
    if len(known) < FEWEST:
        raise FewShotError(f"{len(known)} activity was given: write two or more, one a line, such as playing soccer")
    order = random.Random(0).sample(known, len(known))
    held = min(max(1, round(held_out * len(order))), len(order) - 1)
    held_out_activities, learned = order[:held], order[held:]
    with_subject, without_subject = _counts(len(learned), share)
    subject_prompts = [_prompt(activity, concept, True, "train") for activity in learned[:with_subject]]
    class_prompts = [_prompt(activity, concept, False, "train") for activity in learned[:without_subject]]
    held_out_prompts = [_prompt(activity, concept, True, "held-out") for activity in held_out_activities]
    return PromptSet((*subject_prompts, *class_prompts, *held_out_prompts))


def _counts(activities: int, share: float) -> tuple[int, int]:
    """How many prompts of either form give that share: all of the more frequent form."""
    if not 0 <= share <= 1:
        raise FewShotError(f"the share of prompts with the identifier is {share:g}: choose one from 0 to 1")
    if share >= 0.5:
        return activities, round(activities * (1 - share) / share)
    return round(activities * share / (1 - share)), activities


def _prompt(activity: str, concept: Concept, named: bool, split) -> Prompt:
    plain = insert_phrase(f"a {TRIGGER} {activity}", f"{concept.description} {concept.noun}".strip())
    if not named:
        return Prompt(plain, plain, split)
    phrase = concept.phrase if concept.identifier else TRIGGER
    return Prompt(insert_phrase(f"a {TRIGGER} {activity}", phrase), plain, split)
