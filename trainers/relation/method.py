"""Relation training: a word is learned for how two things relate, and the base stays as it is, bit for bit.

Where a word alone cannot say it, low-rank pairs of the cross-attention are learned with it (`high_noise_rank`) that
count in the noisier half of the timesteps only, where the layout is decided and not how the two things look.

ReVersion (Huang et al. 2023, arXiv:2303.13495): L = L_ref with relation-focal timesteps + steering_weight * L_steer,
and the adversarial loss of the few-shot report. The autoencoder stays frozen with the rest: latents of a trained one
would fit no other model, so that neither the word nor any other adapter would work beside it. ReVersion's own length,
3000 steps of 8 pictures, is not the default and was not measured here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from ...augmentation.captions.leaks import RELATION_WORDS
from ...augmentation.captions.parse import is_relation_word, parts_of, with_placeholder
from ...augmentation.captions.rules import RelationRules
from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.text.weights import escaped
from ...core.text.words import find_word
from ...core.values import Adapter, BaseModelRef, Concept, Sample, TrainingSet
from ...models.adapters.inject import Injected, LoraSpec, inject
from ...models.adapters.learned_tokens import LearnedTokens, TokenSpec
from ...models.contract import DiffusionModel
from .. import losses
from ..context import TrainingContext
from ..data.caption_check import check_learned
from ..data.encoded_set import EncodedSet, encode_set
from ..loop import Share
from ..method import TrainingResult
from ..run import train_with
from ..state.run_folder import RunFolder
from ..subject.denoising import REFERENCE, DenoisingStep
from .adversarial import ADVERSARIAL, DISCRIMINATOR, Adversary, factors
from .gain import GainCheckpoint, GainReader, gain_checkpoint
from .settings import RelationSettings
from .steering import Steering
from .timesteps import drawn_times, relation_focal

log = logging.getLogger(__name__)

STEERING = "steering"
HIGH_NOISE = 0.5
"""the share of the schedule from which on the adapter beside the word counts: where the layout is decided"""


class RelationStep(DenoisingStep):
    """Denoising with other timesteps, the steering loss, and a discriminator where there is one.

    Args:
        steered: the steering loss of the word as it is, for a step and the indices of its captions.
        guard: makes the schedule of readings, in a run's folder.
    """

    settings: RelationSettings

    def __init__(
        self,
        model: DiffusionModel,
        references: EncodedSet,
        settings: RelationSettings,
        steered: Callable[[int, Sequence[int]], torch.Tensor] | None = None,
        adversary: Adversary | None = None,
        guard: Callable[[RunFolder], GainCheckpoint | None] = lambda run: None,
    ):
        super().__init__(model, {REFERENCE: references}, settings)
        self.guard = guard
        self.divergence = None  # an adversary's loss may join the denoising error, or take its place
        self.steered, self.adversary = steered, adversary
        self.probabilities = relation_focal(len(model.process), settings.focal)
        if steered is not None:
            self.weights[STEERING] = settings.steering_weight
        if adversary is not None:
            self.weights |= {ADVERSARIAL: settings.adversarial_weight, DISCRIMINATOR: 1.0}

    @property
    def memory(self) -> Adversary | None:
        """What the discriminator's past says of its weight."""
        return self.adversary

    def best_checkpoint(self, run: RunFolder, on_device: object) -> GainCheckpoint | None:
        """The readings of how much the word explains; what they need is never asleep."""
        return self.guard(run)

    def times(self, term: str, step: int, samples: Sequence[int]) -> torch.Tensor:
        """Relation-focal timesteps (n,)."""
        places = drawn_times(self.random, f"{term}/timestep", step, samples, self.probabilities)
        return self.model.process.times[places]

    def passes(self, step: int, share: Share) -> Iterator[Mapping[str, torch.Tensor]]:
        """The passes of the denoiser; the steering loss of the whole batch goes with the first sample."""
        usual, scale = 1.0, {}
        if self.adversary is not None:
            usual, other = factors(self.settings.adversarial_order, step, self.settings.steps)
            self.adversary.begin(step)
            scale = {ADVERSARIAL: other * self.adversary.factor, DISCRIMINATOR: 1.0}
        if self.steered is not None and share([0]) == [0]:
            indices = self.sample_indices(REFERENCE, step, range(self.settings.batch_size))
            yield {STEERING: usual * self.steered(step, indices)}
        for terms in super().passes(step, share):
            yield {name: scale.get(name, usual) * value for name, value in terms.items()}

    def losses(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, torch.Tensor]:
        """The denoising loss of `rows`, and what the discriminator makes of the same prediction."""
        if self.adversary is None:
            return super().losses(step, rows)
        samples = [i for _, i in rows]
        batch = self.draw(REFERENCE, step, samples)
        (prediction,) = self.predict([batch])
        found = {REFERENCE: self.errors(REFERENCE, batch, prediction)}
        real = self.adversary.draw_real(step, samples, self.settings.batch_size)
        found |= self.adversary.losses(batch.latents, batch.times, prediction, real, step, samples)
        return {name: losses.part_of_mean(values, self.settings.batch_size) for name, values in found.items()}


class RelationTraining:
    """The method: what is trained, and what is computed once before the first step."""

    name = "relation"
    revision = 3
    adversary: type[Adversary] = Adversary
    prepositions: frozenset[str] = RELATION_WORDS
    inputs = ()

    def prepare(
        self,
        model: DiffusionModel,
        pictures: TrainingSet,
        chosen: RelationSettings,
        start_from: Adapter | None,
        progress: Progress,
    ) -> tuple[RelationStep, Injected]:
        """Put the word in, and encode the pictures."""
        concept = pictures.concepts[0]
        words = LearnedTokens(model, [_spec(concept, chosen)], start_from)
        rank = chosen.high_noise_rank
        sets = {"cross_kv": LoraSpec(rank, float(rank), noisy_from=HIGH_NOISE)} if rank else {}
        injected = inject(model, sets, chosen.seed, start_from, words)
        try:
            check_learned((concept.identifier,), pictures.references)
            for sample in pictures.references:
                _check_window(model, sample, concept)
            pool = encode_set(model, pictures.references, chosen.resolution, progress, live_text=True)
            adversary = None
            if chosen.adversarial != "off":
                reals = pool
                if pictures.priors:  # a few pictures alone are soon known by heart
                    samples = (*pictures.references, *pictures.priors)
                    reals = encode_set(model, samples, chosen.resolution, progress, live_text=True)
                adversary = self.adversary(reals, model.process, chosen.seed)
                injected.parameters |= adversary.parameters
            without = injected.disabled if rank else nullcontext
            reader = GainReader(model, pool, pictures, chosen, progress, without)
            steered = None
            if chosen.steering_weight > 0:
                steering = Steering(model, concept.identifier, pool.prompts, chosen, self.prepositions)
                steered = partial(_steered, steering, words, chosen.seed)
            return RelationStep(model, pool, chosen, steered, adversary, partial(gain_checkpoint, reader)), injected
        except BaseException:
            injected.remove()
            raise


def _steered(steering: Steering, words: LearnedTokens, seed: int, step: int, indices: Sequence[int]) -> torch.Tensor:
    """The steering loss of the learned word as it is, for a step and the indices of its captions."""
    return steering.loss(words[steering.word], seed, step, indices)


def _spec(concept: Concept, chosen: RelationSettings) -> TokenSpec:
    """The word to learn; one learned freely may become as long as it likes, as in ReVersion."""
    return TokenSpec(
        concept.identifier, chosen.token_start, chosen.token_vectors, chosen.token == "direction", max_norm=math.inf
    )


def _check_window(model: DiffusionModel, sample: Sample, concept: Concept) -> None:
    found = find_word(concept.identifier, sample.caption)
    if found and not model.token_positions(sample.caption, [found.span()]):
        window = model.token_limit
        raise FewShotError(
            f"{concept.identifier} lies beyond the {window} tokens that the text encoder reads of the caption of "
            f"{sample.image.path.name}. Shorten the caption."
        )


def related(pictures: TrainingSet, dropped: list[str] | None = None) -> TrainingSet:
    """The references whose captions can teach a relation: its word once, between two things, and unnamed otherwise.

    Captions that break a rule are named in the log, and in `dropped`, with the reason and left out; a picture's other
    captions take its weight. Priors, and pictures of subjects that the set has too, are priors of the result: a
    discriminator is shown them.

    Raises:
        FewShotError: the set is of no relation or of several, or no caption is left.
    """
    number, concept = _relation_in(pictures)
    kept: list[Sample] = []
    reasons: list[str] = []
    weights: dict[str, float] = {}
    for sample in (sample for sample in pictures.references if sample.concept == number):
        weights[sample.image.key] = weights.get(sample.image.key, 0.0) + sample.weight
        text = with_placeholder(sample.caption, concept.identifier)
        reason = _told(text, concept)
        if not reason:
            kept.append(replace(sample, caption=text, concept=0))
        else:
            reasons.append(f'a caption is left out: "{sample.caption}" of {sample.image.path.name}: {reason}')
            log.warning("%s", reasons[-1])
    if not kept:
        raise FewShotError(
            f"no caption can teach a relation: {reasons[0]}. Write the two things with {concept.identifier} between "
            f'them, as "cat {concept.identifier} chair".'
        )
    left = {key: sum(s.weight for s in kept if s.image.key == key) for key in {s.image.key for s in kept}}
    kept = [replace(s, weight=s.weight * (weights[s.image.key] / left[s.image.key])) for s in kept]
    if len(left) == 1:
        reasons.append(
            "there is one picture of the relation: its things and place will be learned with it; give 2 to 10"
        )
        log.warning("%s", reasons[-1])
    if dropped is not None:
        dropped.extend(reasons)
    others = [s for s in pictures.samples if s.role == "prior" or s.concept != number]
    others = [replace(s, role="prior", concept=0, mask=None, others=()) for s in others]
    return TrainingSet((*kept, *others), (concept,))


def _told(caption: str, concept: Concept) -> str:
    """What a caption tells that the word alone shall tell, or what else is wrong with it; "" for a good one."""
    parts = parts_of(caption, concept.identifier)
    for noun in (parts.first.noun, parts.second.noun):
        if is_relation_word(noun):
            return f'leak: "{noun}" stands where one of the two things should, and tells how they relate'
    rules = RelationRules.of(concept.identifier, caption, [concept.description] if concept.description else [])
    return rules.check(caption).reason


def _relation_in(pictures: TrainingSet) -> tuple[int, Concept]:
    """The one relation of the set, and its number among the concepts."""
    kinds = [concept.kind for concept in pictures.concepts]
    if kinds.count("relation") != 1:
        raise FewShotError(
            f"Train Relation learns one relation, and the set is of {', '.join(kinds)}: connect Relation Pictures"
        )
    number = kinds.index("relation")
    if not any(sample.concept == number for sample in pictures.references):
        raise FewShotError("there are no pictures of the relation to learn from. Give two to ten.")
    return number, pictures.concepts[number]


def train_relation(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: RelationSettings,
    context: TrainingContext,
    start_from: Adapter | None = None,
) -> TrainingResult:
    """Teach `base` a word for the relation in `pictures`; arguments and errors are those of `train_subject`.

    The result's adapter holds the word alone, or with `high_noise_rank` a LoRA of noisy timesteps with it.
    """
    pictures = related(pictures)
    for line in settings.idle:
        log.warning("%s", line)
    if pictures.priors and settings.adversarial == "off":
        log.info("only a discriminator looks at the %d pictures of other kinds, and it is off", len(pictures.priors))
        pictures = pictures.with_samples(pictures.references)
    if not settings.preview_prompt:
        settings = replace(settings, preview_prompt=escaped(pictures.references[0].caption))
    return train_with(RelationTraining(), base, pictures, settings, context, start_from)
