"""The three sides: what trains each, everything else being the same."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...augmentation.images.load import subject_from_folder
from ...augmentation.priors.generate import PriorSettings, generate_priors
from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.values import Adapter, BaseModelRef, TrainingSet
from ...evaluation.prompts.refinement import refinement_prompts
from ...evaluation.reward import Reward
from ...trainers.context import TrainingContext
from ...trainers.method import TrainingResult
from ...trainers.refine.method import RefinementGoal, refine_adapter
from ...trainers.refine.settings import RefinementSettings
from ...trainers.subject.method import train_subject
from ...trainers.subject.settings import SubjectSettings
from ...trainers.validation.image_metrics import Validator
from .judges import Judges
from .subjects import BenchmarkSubject

log = logging.getLogger(__name__)
BASE, PLAIN, OURS, REFINED = "base", "plain", "ours", "refined"
SIDES = (PLAIN, OURS, REFINED)
TITLES = {BASE: "base, class alone", PLAIN: "plain LoRA", OURS: "Train Subject", REFINED: "+ Refine LoRA"}
# diffusers' DreamBooth-LoRA example: attention only, rank 4, constant 1e-4, one picture and one prior a step; and the
# 800 steps that it takes with prior preservation.
PLAIN_SETTINGS: Mapping[str, Any] = {
    "parameter_set": "attention", "rank": 4, "alpha": 4.0, "learning_rate": 1e-4, "batch_size": 1, "steps": 800,
    "prior_weight": 1.0, "weight_decay": 0.01, "validate_every": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """What a side learned, the steps it took, and the seconds they took, earlier parts included."""

    adapter: Adapter
    steps: int
    chosen: int
    seconds: float


@dataclass(frozen=True)
class Trainings:
    """All that the trainings have in common."""

    base: BaseModelRef
    judges: Judges
    options: argparse.Namespace
    context: RunContext

    def pictures(self, subject: BenchmarkSubject) -> TrainingSet:
        """The subject's pictures, as they lie in its folder."""
        return subject_from_folder(subject.folder, self.options.identifier, subject.noun)

    def with_priors(self, pictures: TrainingSet, progress: Progress) -> TrainingSet:
        """The same with the base's pictures of the class, which subjects of one class share."""
        size = self.options.size
        settings = PriorSettings(count=self.options.priors, width=size, height=size)
        context = replace(self.context, folder=self.context.folder / "priors", progress=progress)
        return generate_priors(self.base, pictures, settings, context).pictures

    def settings(self, side: str, seed: int) -> SubjectSettings:
        """Those of a training: ours are the defaults."""
        own = {"resolution": self.options.size, "seed": seed} if self.options.size else {"seed": seed}
        own |= {"steps": self.options.steps} if self.options.steps else {}
        return SubjectSettings.from_mapping({**PLAIN_SETTINGS, **own} if side == PLAIN else own)

    def refinement(self, seed: int) -> RefinementSettings:
        """The defaults, but for what --refine names."""
        own: dict[str, Any] = {"seed": seed} | ({"resolution": self.options.size} if self.options.size else {})
        return RefinementSettings.from_mapping(own | refine_changes(self.options.refine))

    def train(
        self, side: str, subject: BenchmarkSubject, seed: int, pictures: TrainingSet, progress: Progress
    ) -> Trained:
        """Train a side; one that was trained before is found. Raises FewShotError as the trainings do."""
        validator = Validator(self.judges.training_clip)
        name = f"{subject.name}_{side}"
        context = TrainingContext(
            self.context.folder / "runs", self.context.device, progress, self.context.tokenizer_folder, name=name,
            validator=None if side == PLAIN else validator,
        )  # fmt: skip
        if side == REFINED:
            start = train_subject(self.base, pictures, self.settings(OURS, seed), context)
            return self._refined(subject, start.adapter, pictures, seed, context)
        return _trained(train_subject(self.base, pictures, self.settings(side, seed), context))

    def _refined(
        self, subject: BenchmarkSubject, start: Adapter, pictures: TrainingSet, seed: int, context: TrainingContext
    ) -> Trained:
        references = tuple(sample.image for sample in pictures.references)
        prompts = refinement_prompts(subject.activities, pictures.concepts[0])
        goal = RefinementGoal(prompts, Reward(self.judges.terms, references))
        own = pictures.with_samples(pictures.references)
        result = refine_adapter(self.base, start, goal, self.refinement(seed), context, own)
        if result.combined is None:
            raise FewShotError(result.apart)
        return replace(_trained(result.training), adapter=result.combined)


def _trained(result: TrainingResult) -> Trained:
    return Trained(result.adapter, len(result.losses), result.chosen, result.seconds)


def refine_changes(text: str) -> dict[str, Any]:
    """Refinement Settings of "steps=20,group=4", in their own types.

    Raises:
        FewShotError: there is no such setting, or its value is of another type.
    """
    known, found = RefinementSettings.named_fields(), {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, _, value = part.partition("=")
        if name not in known:
            raise FewShotError(
                f"--refine names {name!r}, which Refinement Settings have not; they have {', '.join(known)}"
            )
        kind: Callable[[str], Any] = type(known[name].default)
        try:
            found[name] = value == "True" if kind is bool else kind(value)
        except ValueError:
            raise FewShotError(
                f"--refine gives {name} the value {value!r}; give one like {known[name].default}"
            ) from None
    return found
