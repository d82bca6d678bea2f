"""The check of a refinement: the base, the subject before, and the subject after."""

from __future__ import annotations

from ...core.errors import FewShotError
from ...core.values import Adapter, BaseModelRef, TrainingSet
from ...evaluation.learned.check import Check
from ...evaluation.learned.measure import Column
from ...evaluation.learned.refined import verdict_of_refinement
from ...evaluation.learned.size import MOST
from ...evaluation.prompts.sets import for_trigger
from ...evaluation.reward import names_subject
from ..refine.method import RefinementGoal, RefinementResult, naming, split, trigger_of
from ..refine.settings import RefinementSettings
from .common import Checker, floor, references_of


def refinement_check(
    base: BaseModelRef,
    adapter: Adapter | None,
    goal: RefinementGoal,
    settings: RefinementSettings,
    result: RefinementResult,
    seen: tuple[Checker, TrainingSet | None],
) -> Check:
    """Whether held-out prompts that name the subject are followed better, and the subject is what it was.

    Args:
        seen: what compares, and the subject's pictures.

    Raises:
        FewShotError: subject and refining adapter stay two, which are not drawn together here.
    """
    checker, pictures = seen
    if adapter is not None and result.combined is None:
        raise FewShotError(result.apart)
    trigger = trigger_of(adapter, pictures)
    held_out = split(naming(for_trigger(goal.prompts, trigger), trigger, pictures))[1]
    prompts = [(prompt, 0) for prompt in held_out if names_subject(prompt)] or [(prompt, 0) for prompt in held_out]
    rounds = [prompts[number % len(prompts)] for number in range(MOST)]
    references = references_of(pictures, [0]) if pictures is not None and pictures.references else ({}, "")
    after = result.combined or result.adapter
    columns = [floor(base), Column("before", base, adapter), Column("after", base, after)]
    return checker.check(columns, rounds, references, settings.resolution, verdict_of_refinement)
