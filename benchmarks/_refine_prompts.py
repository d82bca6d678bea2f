"""What the bench of refinement asks for: prompts to learn from, others to watch with, and others again to be judged."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ..models.values import Prompt, PromptSet
from ..pocket import world
from ._subject_sets import Ask, asks

GUARDED = 12
"""prompts that a refinement is watched with"""


@cache
def unseen(noun: str, count: int) -> tuple[Ask, ...]:
    """What is judged: the prompts of the bench of subjects, and more of their kind."""
    return asks(noun, f"sks {noun}", count=count)


def prompts(noun: str, activities: int, judged: int, mixed: bool = False) -> PromptSet:
    """Prompts in the world's words with the identifier; `mixed` ones also without it, of the same activities.

    Accessories and relations come in turn, as what is judged asks for as many of the one as of the other.

    Args:
        activities: how many there are to learn from.
        judged: how many prompts are judged, none of which is learned from or watched with.
    """
    kept = {ask.prompt for ask in unseen(noun, judged)}
    others = [other for other in world.CLASSES if other != noun]
    words = dict.fromkeys(side[0] for sides in world.LAYOUTS.values() for side in sides)
    kinds = ([*world.ACCESSORIES.values()], [f"{word} a {other}" for word in words for other in others])
    rng, lines = world.lots(92, world.CLASSES.index(noun)), []
    for doing in kinds:
        known = [f"a photo of a sks {noun} {what} {there}" for what in doing for there in world.PLACES.values()]
        lines.append([known[i] for i in rng.permutation(len(known)) if known[i] not in kept])
    in_turn = [line for both in zip(*lines, strict=False) for line in both][: activities + GUARDED]
    watched, learned = in_turn[:GUARDED], in_turn[GUARDED:]
    named = [_prompt(line, noun, True) for line in learned]
    plain = [_prompt(line, noun, False) for line in learned] if mixed else []
    return PromptSet((*named, *plain, *(replace(_prompt(line, noun, True), split="held-out") for line in watched)))


def _prompt(line: str, noun: str, named: bool) -> Prompt:
    plain = line.replace(f"sks {noun}", noun)
    return Prompt(line if named else plain, plain, "train")
