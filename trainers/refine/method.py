"""Refinement of a subject's adapter by rewards: InstructBooth's second stage (Chae et al. 2023, arXiv:2312.03011).

A fresh low-rank adapter is learned over the frozen subject, so that the pictures of prompts with and without the
identifier earn more. The subject stays on throughout; only the refining adapter is trained, and given back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...augmentation.images.load import load_picture
from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.text.embeddings import reading_key
from ...core.text.prompts import prompt_of
from ...core.text.words import find_noun, find_word
from ...core.values import Adapter, BaseModelRef, Concept, Factor, Kept, Prompt, PromptSet, TrainingSet, content_key
from ...evaluation.prompts.sets import for_trigger
from ...evaluation.reward import RewardModels, Rewards, names_subject
from ...models.adapters.apply import has_effect
from ...models.adapters.forms.complete import DORA
from ...models.adapters.inject import Injected, applied, inject
from ...models.adapters.merge import sum_adapters
from ...models.adapters.metadata import SOURCES
from ...models.contract import DiffusionModel
from ...models.public_names import in_denoiser
from ..context import TrainingContext
from ..data.encoded_set import encode_set
from ..distributed import Processes, SingleProcess
from ..method import TrainingResult
from ..run import train_with
from ..state.run_folder import RunFolder
from ..targets import sets_of
from ..validation.image_metrics import Validator
from ..validation.schedule import FILE
from .guards import Floors, GuardedCheckpoint, GuardSchedule
from .methods.dpo import PairsStep
from .methods.draft import DirectRewardStep
from .methods.nft import NegativeAwareStep
from .methods.policy_gradient import PolicyGradientStep
from .methods.table import PAIRS, readers
from .readings import HeldOut, Reader
from .rollout import RolloutOptions, RolloutSampler
from .sampler_policy import SamplerPolicy
from .settings import REFERENCES, RefinementSettings
from .step import RefiningStep

log = logging.getLogger(__name__)
STEPS: Mapping[str, type[RefiningStep]] = {
    name: step for step in (PolicyGradientStep, NegativeAwareStep, PairsStep, DirectRewardStep) for name in step.methods
}
HELD_OUT = 4  # every how manyth prompt is held out where none is said to be


@dataclass(frozen=True)
class RefinementResult:
    """What refinement gives.

    `combined` is subject and refining adapter as one, exactly; None with the reason in `apart` where there is no
    subject adapter, or it is of a form that cannot be put beside another.
    """

    training: TrainingResult
    combined: Adapter | None
    apart: str

    @property
    def readings(self) -> Mapping[str, Any]:
        """`Readings.plain`."""
        return self.training.readings

    @property
    def adapter(self) -> Adapter:
        """The refining adapter alone; it goes on top of the subject's."""
        return self.training.adapter


@dataclass(frozen=True)
class Refinement:
    """The method, as `train_with` takes it."""

    subject: Adapter | None
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    rewards: Rewards
    validator: Validator | None = None
    processes: Processes = field(default_factory=SingleProcess)
    embedding_folders: tuple[Path, ...] = ()
    name: str = "refinement"
    revision: int = 5

    @property
    def inputs(self) -> tuple[str, ...]:
        subject = self.subject.key if self.subject is not None else ""
        guard = self.validator.key if self.validator is not None else ""
        keys = (subject, PromptSet(self.train).key, PromptSet(self.held_out).key, self.rewards.key, guard)
        read = [reading_key(prompt.text, self.embedding_folders) for prompt in (*self.train, *self.held_out)]
        return (*keys, content_key("read", read)) if any(read) else keys

    def prepare(
        self,
        model: DiffusionModel,
        pictures: TrainingSet,
        chosen: RefinementSettings,
        start_from: Adapter | None,
        progress: Progress,
    ) -> tuple[RefiningStep, Injected]:
        """Put the subject in, the refining adapter on top, and encode the prompts."""
        settings = self._resolve_explore(chosen)
        injected = inject(model, sets_of(settings), settings.seed, start_from, beneath=self.subject)
        try:
            known = settings.of_method.policy_gradient
            size = (settings.resolution, settings.resolution)
            policy = SamplerPolicy(
                model.process, settings.sampling_steps, size, settings.eta, settings.skip_last, known
            )
            options = RolloutOptions(settings.guidance, settings.resolution, settings.micro_batch, settings.seed)
            own = self._captions(pictures, settings)
            changed = self._changed(model, settings)
            sampler = RolloutSampler(model, self.train, policy, options, progress, changed)
            references = [load_picture(picture) for picture in self.rewards.references]
            reward_models = self.rewards.open(model.device, references, self.train)

            def guard(run: RunFolder) -> GuardedCheckpoint:
                return self._guard(sampler, reward_models, pictures, settings, run)

            step = STEPS[settings.method](sampler, reward_models, injected, settings, self.processes, guard)
            if isinstance(step, PairsStep) and own:
                pool = encode_set(model, pictures.references, settings.resolution, progress)
                step.take_references(pool.mean, own)
            return step, injected
        except BaseException:
            injected.remove()
            raise

    def _resolve_explore(self, settings: RefinementSettings) -> RefinementSettings:
        """The settings, which explore where they say so, or say nothing and there is an adapter to lower."""
        if settings.resolved_explore and not self._in_denoiser:
            if not settings.is_auto("explore"):
                raise FewShotError(
                    f"explore is {settings.explore:g}, and there is no adapter of the denoiser whose strength could be "
                    "lowered: connect one that changes the denoiser, or set explore to 0"
                )
            settings = replace(settings, explore=0.0)
        if settings.method in readers("explore"):
            log.info(
                "pictures of a prompt are drawn with the subject at strengths from 1 to %g",
                1 - settings.resolved_explore,
            )
        return settings

    @property
    def _in_denoiser(self) -> dict[str, Factor]:
        """The subject's factors in the denoiser."""
        everything = self.subject.factors if self.subject is not None else {}
        return {path: factor for path, factor in everything.items() if in_denoiser(path)}

    def _changed(
        self, model: DiffusionModel, settings: RefinementSettings
    ) -> Callable[[float], AbstractContextManager]:
        """What changes the subject's strength in the denoiser: prompts are encoded once, with its own."""
        if self.subject is None or not settings.resolved_explore:
            return nullcontext
        weaker = replace(self.subject, factors=self._in_denoiser, embeddings={})
        return lambda change: applied(model, [(weaker, change)])

    def _captions(self, pictures: TrainingSet, settings: RefinementSettings) -> list[Prompt]:
        """The captions of the pictures that drawn ones are paired with, where they are."""
        if settings.method != PAIRS or settings.pair_with != REFERENCES:
            return []
        if not pictures.references:
            raise FewShotError("pair_with is references and there are none: connect the subject's pictures as set")
        return [prompt_of(sample.caption, pictures.concepts) for sample in pictures.references]

    def _guard(
        self,
        sampler: RolloutSampler,
        reward_models: RewardModels,
        pictures: TrainingSet,
        settings: RefinementSettings,
        run: RunFolder,
    ) -> GuardedCheckpoint:
        references = [load_picture(s.image) for s in pictures.references] or list(reward_models.references)
        reward_folders = [path.resolve() for path in self.rewards.folders]
        held_out = HeldOut(self.held_out[: settings.guard_prompts], references, reward_folders)
        reader = Reader(sampler, reward_models, held_out, settings, self.validator, run.samples)
        floors = Floors(settings.subject_floor, settings.diversity_floor, settings.held_out_floor)
        schedule = GuardSchedule(settings.guard_every * settings.updates, settings.steps, settings.patience, floors)
        rewards = {term.name: term.weight for term in reward_models.terms}
        return GuardedCheckpoint(reader, schedule, rewards, reader.groups, run.folder / FILE, reader.tell)


@dataclass(frozen=True)
class RefinementGoal:
    """Which prompts pictures are drawn of, and what they are rewarded for.

    Prompts whose split is "train" are learned from, the others are for the guards; where none is, every fourth is held
    out. {trigger} in them stands for the adapter's trigger phrase.
    """

    prompts: PromptSet
    rewards: Rewards


def refine_adapter(
    base: BaseModelRef,
    adapter: Adapter | None,
    goal: RefinementGoal,
    settings: RefinementSettings,
    context: TrainingContext,
    pictures: TrainingSet | None = None,
) -> RefinementResult:
    """Refine a subject's adapter by rewards; runs are found and gone on with as in `subject.method.train_subject`.

    Args:
        adapter: the subject's; None where `base` itself was tuned in full.
        context: its validator's models watch over likeness and variety.
        pictures: the subject's, which likeness is watched with.

    Raises:
        FewShotError: something a person can mend: an adapter without effect, of another family or a DoRA, too few
            prompts or none that names subject or class, a reward that gives no numbers or always the same, disk,
            divergence.
        BaseException: whatever `context.progress.check` raises.
    """
    if adapter is not None:
        _check_effect(adapter)
    trigger = trigger_of(adapter, pictures)
    learned, held_out = split(naming(for_trigger(goal.prompts, trigger), trigger, pictures))
    watched = pictures or TrainingSet((), (Concept("", trigger or "subject"),))
    seen, folders = context.validator, context.embedding_folders
    method = Refinement(adapter, learned, held_out, goal.rewards, seen, context.processes, folders)
    trained = train_with(method, base, watched, settings, replace(context, validator=None))
    trained = replace(trained, adapter=replace(trained.adapter, trigger=trigger))
    combined, apart = together(replace(adapter, trigger=trigger) if adapter else None, trained.adapter)
    return RefinementResult(trained, combined, apart)


def together(subject: Adapter | None, refining: Adapter) -> tuple[Adapter | None, str]:
    """Both as one adapter, with low-rank pairs side by side; or why they stay two."""
    if subject is None:
        return None, "the subject is in the base itself: the refining adapter goes on top of it"
    try:
        named = (replace(subject, trigger=subject.trigger or "subject"), replace(refining, trigger="refinement"))
        both = sum_adapters([(one, 1.0) for one in named])  # which asks for triggers that tell its adapters apart
    except FewShotError as error:
        return None, f"the subject and the refining adapter stay two files: {error}"
    metadata = {**subject.metadata, **refining.metadata, SOURCES: both.metadata[SOURCES]}
    return replace(both, trigger=subject.trigger, metadata=metadata), ""


def split(prompts: PromptSet) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """The prompts to learn from and those held out; where none is for training, every fourth is held out.

    Raises:
        FewShotError: there are fewer than two different prompts, or one side is empty.
    """
    known = tuple(dict.fromkeys(prompts.prompts))
    if len(known) < 2:
        raise FewShotError(
            f"{len(known)} prompt was given: one is learned from and another one tells whether it helps. Give two or "
            "more, better 20"
        )
    learned = tuple(prompt for prompt in known if prompt.split == "train")
    if not learned:
        log.info("no prompt is said to be for training: every %dth is held out", HELD_OUT)
        held_out = known[1::HELD_OUT]
        return tuple(prompt for prompt in known if prompt not in held_out), held_out
    held_out = tuple(prompt for prompt in known if prompt.split != "train")
    if not held_out:
        raise FewShotError("every prompt is for training: hold some out, so that deceived rewards are seen")
    return learned, held_out


def trigger_of(adapter: Adapter | None, pictures: TrainingSet | None) -> str:
    """The words that call the subject: the adapter's own, else those of its pictures, as of files that tell none."""
    own = adapter.trigger if adapter is not None else ""
    return own or (pictures.trigger if pictures is not None else "")


def naming(prompts: PromptSet, trigger: str, pictures: TrainingSet | None) -> PromptSet:
    """The prompts that name the subject or its class; others are left out by name. All, where no words are known.

    Raises:
        FewShotError: none is left.
    """
    nouns = [concept.noun for concept in pictures.concepts] if pictures is not None else []
    words = [word for word in (trigger, *(nouns or trigger.split()[-1:])) if word]
    if not words:
        return prompts

    def names(prompt: Prompt) -> bool:
        return bool(find_word(trigger, prompt.text)) or any(find_noun(word, prompt.text) for word in words)

    kept = tuple(prompt for prompt in prompts.prompts if names(prompt) or names_subject(prompt))
    for prompt in prompts.prompts:
        if prompt not in kept:
            log.warning("this prompt names neither the subject nor its class and is left out: %s", prompt.text)
    if not kept:
        raise FewShotError(
            f"none of {len(prompts.prompts)} prompts names the subject ({' or '.join(words)}), so nothing would be "
            "learned of it: write prompts such as "
            f'"a {trigger or words[0]} in the snow"'
        )
    return PromptSet(kept)


def _check_effect(adapter: Adapter) -> None:
    if adapter.noisy_from:
        raise FewShotError(
            "the adapter counts at noisy timesteps only, and cannot be refined: take one that always does"
        )
    for path, factor in adapter.factors.items():
        if isinstance(factor, Kept) and DORA in factor.tensors:
            raise FewShotError(
                f"{path} is a DoRA, which sets the length of weights after its difference is added: nothing can be "
                "learned over it and be kept in one file. Refine a LoRA"
            )
    if not adapter.embeddings and not any(map(has_effect, adapter.factors.values())):
        raise FewShotError(
            "the adapter changes nothing: the differences that it adds are all zero. Train it first, or give the base "
            "alone"
        )
