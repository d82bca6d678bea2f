"""Prompts of the refinement bench, all different: for training, for the guards, and for the judges."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from ...core.values import Prompt, PromptSet
from ...pocket.world import world
from ..subject.sets import PromptCheck, prompt_checks

PLACES = tuple(world.PLACES.values())
GUARD_PROMPTS = 6  # held-out prompts of the guards


@cache
def unseen_checks(noun: str, count: int) -> tuple[PromptCheck, ...]:
    """The judged prompts: those of the subject bench, and more of their kind."""
    return prompt_checks(noun, f"sks {noun}", count=count)


def prompts(noun: str, activities: int, judged: int, mixed: bool = False) -> PromptSet:
    """Prompts in the world's words with the identifier; `mixed` adds those without it, of the same activities.

    They name accessories. Judged prompts name relations to other things too, but no reward of the pocket measures
    those: among samples of one prompt CLIP-T, with contrast or without, ranks the right ones with an AUC of 0.42 to
    0.57, and training on it loses the relation (58 to 38 % over three subjects).

    Args:
        activities: how many there are to train on, at most.
        judged: how many prompts are judged; none of them is trained on or used by the guards.
    """
    judged_prompts = {check.prompt for check in unseen_checks(noun, judged)}
    known = [
        f"a photo of a sks {noun} {accessory} {there}" for accessory in world.ACCESSORIES.values() for there in PLACES
    ]
    order = world.rng_of(92, world.CLASSES.index(noun)).permutation(len(known))
    lines = [known[i] for i in order if known[i] not in judged_prompts][: activities + GUARD_PROMPTS]
    held_out, training = lines[:GUARD_PROMPTS], lines[GUARD_PROMPTS:]
    named = [_prompt(line, noun, True) for line in training]
    plain = [_prompt(line, noun, False) for line in training] if mixed else []
    return PromptSet((*named, *plain, *(replace(_prompt(line, noun, True), split="held-out") for line in held_out)))


def _prompt(line: str, noun: str, named: bool) -> Prompt:
    plain = line.replace(f"sks {noun}", noun)
    return Prompt(line if named else plain, plain, "train")
