"""The check of a subject's training: the base, and the adapter at several strengths."""

from __future__ import annotations

from ...core.values import BaseModelRef, TrainingSet
from ...evaluation.learned.check import Check
from ...evaluation.learned.measure import Column
from ...evaluation.learned.size import CheckSize, check_size
from ...evaluation.learned.words import verdict_of
from ..method import TrainingResult
from ..subject.settings import SubjectSettings
from ..validation.image_metrics import held_out_prompts
from .common import Checker, floor, references_of, trained_evaluations


def size_of_check(pictures: TrainingSet, settings: SubjectSettings, result: TrainingResult) -> CheckSize:
    """How much is drawn after this training."""
    priors = bool(pictures.priors) and settings.prior_weight > 0
    return check_size(trained_evaluations(result, priors), None if result.base is not None else result.adapter)


def subject_check(
    base: BaseModelRef, pictures: TrainingSet, settings: SubjectSettings, result: TrainingResult, checker: Checker
) -> Check:
    """Whether `result` learned the subjects of `pictures`."""
    size = size_of_check(pictures, settings, result)
    if result.base is not None:
        columns = [Column("trained", result.base)]
    else:
        columns = [Column(f"{strength:g}", base, result.adapter, strength) for strength in size.strengths]
    prompts = held_out_prompts(pictures, size.prompts, checker.knows, settings.validation_prompts)
    references = references_of(pictures, [concept for _, concept in prompts])
    return checker.check([floor(base), *columns], prompts, references, settings.resolution, verdict_of)
