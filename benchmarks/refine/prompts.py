"""What the bench of refinement asks for: prompts to learn from, others to watch with, and others again to be judged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ...core.values import Prompt, PromptSet
from ...pocket.world import world
from ..subject.sets import Ask, asks

PLACES = tuple(world.PLACES.values())
GUARDED = 6
"""prompts that a refinement is watched with"""


@cache
def unseen(noun: str, count: int) -> tuple[Ask, ...]:
    """What is judged: the prompts of the bench of subjects, and more of their kind."""
    return asks(noun, f"sks {noun}", count=count)


def prompts(noun: str, activities: int, judged: int, mixed: bool = False) -> PromptSet:
    """Prompts in the world's words with the identifier; `mixed` ones also without it, of the same activities.

    They ask for accessories. What is judged asks for relations to other things too, but no reward of the pocket sees
    those: among pictures of one prompt CLIP-T, with contrast or without, finds the right ones with an AUC of 0.42 to
    0.57, and learned from it the relation gets lost (58 to 38 % over three subjects).

    Args:
        activities: how many there are to learn from, at most.
        judged: how many prompts are judged, none of which is learned from or watched with.
    """
    kept = {ask.prompt for ask in unseen(noun, judged)}
    known = [f"a photo of a sks {noun} {worn} {there}" for worn in world.ACCESSORIES.values() for there in PLACES]
    order = world.lots(92, world.CLASSES.index(noun)).permutation(len(known))
    lines = [known[i] for i in order if known[i] not in kept][: activities + GUARDED]
    watched, learned = lines[:GUARDED], lines[GUARDED:]
    named = [_prompt(line, noun, True) for line in learned]
    plain = [_prompt(line, noun, False) for line in learned] if mixed else []
    return PromptSet((*named, *plain, *(replace(_prompt(line, noun, True), split="held-out") for line in watched)))


def _prompt(line: str, noun: str, named: bool) -> Prompt:
    plain = line.replace(f"sks {noun}", noun)
    return Prompt(line if named else plain, plain, "train")
