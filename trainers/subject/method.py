"""Subject training: what one step computes, L_ref + prior_weight * L_prior + local_weight * L_local.

L_ref and L_prior are DreamBooth's (Ruiz et al. 2023); L_local ties the attention of the subject's words to its mask.
With DCO (Lee et al. 2024) the base's own error on the reference pictures takes the place of prior pictures; so does
preservation_weight * L_preserve, what the trained network predicts of the class against what the base does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch

from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.text.prompts import strip_identifiers
from ...core.values import Adapter, BaseModelRef, Sample, TrainingSet
from ...models.adapters.inject import Injected, inject
from ...models.adapters.learned_tokens import LearnedTokens
from ...models.attention import RecordedAttention, shares_on_grid
from ...models.conditioning import Conditioning
from ...models.contract import DiffusionModel
from .. import losses
from ..context import TrainingContext
from ..data.batch import TermBatch, select_conditioning
from ..data.caption_check import captioned, check_learned
from ..data.encoded_set import EncodedSet, encode_set, encoded
from ..data.sampling_weights import drawing_weights, draws_told, natural_weights
from ..health import Divergence
from ..method import TrainingResult
from ..run import train_with
from ..targets import sets_of, token_specs
from .attention_supervision import Supervision, supervise
from .denoising import REFERENCE, DenoisingStep
from .settings import SubjectSettings

log = logging.getLogger(__name__)

PRIOR, LOCAL, DCO, PRESERVATION = "prior", "local", "dco", "preservation"
LOCAL_WARMUP = 0.1
"""the share of the steps, the first ones, over which L_local's gradient rises: attention has to find the word first"""


class SubjectStep(DenoisingStep):
    """The step on references and priors: as many of each. A term of weight 0 is not computed at all.

    Args:
        supervision: of the references' pool, where L_local has a weight.
        without: the context in which the networks are as they were before training, for DCO.
    """

    settings: SubjectSettings

    def __init__(
        self,
        model: DiffusionModel,
        references: EncodedSet,
        priors: EncodedSet | None,
        settings: SubjectSettings,
        supervision: Supervision | None = None,
        without: Callable[[], AbstractContextManager] = nullcontext,
    ):
        pools = {REFERENCE: references}
        if priors is not None and settings.prior_weight > 0:
            pools[PRIOR] = priors
        if settings.preservation_weight > 0:
            pools[PRESERVATION] = replace(
                references,
                prompts=references.base_prompts,
                conditioning=None if settings.reads_text else references.base,
                dropped=references.base_dropped,
            )
        names = {REFERENCE: DCO} if settings.objective == "dco" else {}
        super().__init__(model, pools, settings, names)
        self.divergence = Divergence(tuple(self.names[term] for term in self.pools if term != PRESERVATION))
        self.supervision = supervision
        self.without = without
        if PRESERVATION in pools:
            self.weights[PRESERVATION] = settings.preservation_weight
        if PRIOR in pools:
            self.weights[PRIOR] = settings.prior_weight
        if supervision is not None and settings.local_weight > 0:
            self.weights[LOCAL] = settings.local_weight

    def losses(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, torch.Tensor]:
        """One call of the denoiser for `rows` of (term, global sample index), and what it adds to each term."""
        batches = self.draw_batches(step, rows)
        with self._watched(batches) as kept:
            predictions = self.predict(list(batches.values()))
        terms = self.means(batches, predictions)
        if kept is not None:
            error = losses.part_of_mean(self.local_errors(batches[REFERENCE], kept), self.settings.batch_size)
            risen = min(1.0, (step + 1) / (LOCAL_WARMUP * self.settings.steps))
            terms[LOCAL] = risen * error + (1.0 - risen) * error.detach()  # logged in full, its gradient warms up
        return terms

    def draw(self, term: str, step: int, samples: Sequence[int]) -> TermBatch:
        """What is preserved is what is predicted on the references' own noisy latents, told of the class alone."""
        if term != PRESERVATION:
            return super().draw(term, step, samples)
        batch, pool = super().draw(REFERENCE, step, samples), self.pools[PRESERVATION]
        with_caption = (True,) * len(samples)  # of the class always: told nothing, references and base would pull apart
        conditioning = pool.conditioning
        if conditioning is not None:
            conditioning = select_conditioning(conditioning, pool.dropped, batch.indices, with_caption)
        prompts = tuple(pool.prompts[i] for i in batch.indices)
        return replace(batch, prompts=prompts, conditioning=conditioning, caption_kept=with_caption)

    def noise(self, term: str, step: int, samples: Sequence[int], shape: torch.Size) -> torch.Tensor:
        """The samples' noise (n, C, h, w), with an offset that is constant over each picture."""
        noise = super().noise(term, step, samples, shape)
        if not self.settings.noise_offset:
            return noise
        offset = self.random.normal(f"{term}/offset", step, samples, (shape[0], *[1] * (len(shape) - 1)))
        return noise + self.settings.noise_offset * offset

    def caption_kept(self, term: str, step: int, samples: Sequence[int]) -> list[bool]:
        """Which samples have their caption."""
        dropout = self.settings.caption_dropout
        return [not self.random.happens(f"{term}/dropped", step, i, dropout) for i in samples]

    def errors(self, term: str, batch: TermBatch, prediction: torch.Tensor) -> torch.Tensor:
        """The losses (n,) of one term's samples."""
        weight = None
        if self.settings.min_snr_gamma:
            process, times = self.model.process, batch.times
            weight = losses.min_snr_weight(process.snr(times), process.error_ratio(times), self.settings.min_snr_gamma)
        if term == PRESERVATION:
            return losses.preservation_loss(prediction, self.base_prediction(batch), weight)
        places = self.loss_weights(term, batch)
        if term == PRIOR:
            return losses.prior_loss(prediction, batch.target, weight, places)
        if self.settings.objective != "dco":
            return losses.reference_loss(prediction, batch.target, places, weight)
        own = losses.squared_error(prediction, batch.target, places)
        base = losses.squared_error(self.base_prediction(batch), batch.target, places)
        error = losses.consistency_loss(own, base, self.settings.dco_beta)
        return error if weight is None else error * weight

    def background(self, term: str) -> float:
        return 1.0 if term == PRIOR else self.settings.background_weight

    @torch.no_grad()
    def base_prediction(self, batch: TermBatch) -> torch.Tensor:
        """What the denoiser predicts without what is trained, told of the class only."""
        pool = self.pools[REFERENCE]
        assert pool.base is not None
        conditioning = select_conditioning(pool.base, pool.base_dropped, batch.indices, batch.caption_kept)
        with self.without():
            return self.predict([replace(batch, conditioning=conditioning)])[0]

    def _watched(self, batches: Mapping[str, TermBatch]) -> AbstractContextManager[RecordedAttention | None]:
        """The context that keeps the references' attention where L_local is computed."""
        if self.supervision is None or LOCAL not in self.weights or REFERENCE not in batches:
            return nullcontext()
        return self.model.record_attention(self.supervision.layers)

    def local_errors(self, batch: TermBatch, kept: RecordedAttention) -> torch.Tensor:
        """L_local (n,) of the references, which are the first of the batch.

        Weighted by sqrt(a_t), since a picture of nearly pure noise does not show where anything is.
        """
        assert self.supervision is not None
        rows = self.supervision.take(batch.indices, batch.caption_kept)
        size = (batch.latents.shape[-2], batch.latents.shape[-1])
        shares = shares_on_grid(kept, slice(len(batch.times)), size, rows.wanted, rows.known, rows.member)
        signal = self.model.process.signal(batch.times)
        return losses.local_loss(shares, rows.masks, rows.valid) * signal


class SubjectTraining:
    """The method: what is trained, and what is computed once before the first step."""

    name = "subject"
    inputs = ()
    revision = 5  # raised too when a rule of `auto` or a default that is not a setting changes
    step: type[SubjectStep] = SubjectStep

    def prepare(
        self,
        model: DiffusionModel,
        pictures: TrainingSet,
        chosen: SubjectSettings,
        start_from: Adapter | None,
        progress: Progress,
    ) -> tuple[SubjectStep, Injected]:
        """Put in what is trained, and encode pictures and prompts."""
        _tell(pictures, chosen)
        specs = token_specs(chosen, pictures)
        words = LearnedTokens(model, specs, start_from)
        try:
            pictures = captioned(model, pictures)
            check_learned([spec.word for spec in specs], pictures.references, chosen.caption_dropout)
            base = base_words(model, pictures) if chosen.objective == "dco" or chosen.preservation_weight else None
        except BaseException:
            words.remove()
            raise
        injected = inject(model, sets_of(chosen), chosen.seed, start_from, words)
        try:  # prompts are encoded with what stays on of the adapter that is trained on from
            references, priors, supervision = self._pools(model, pictures, chosen, progress)
        except BaseException:
            injected.remove()
            raise
        if base is not None:
            names = ("base_prompts", "base", "base_dropped")
            references = replace(references, **dict(zip(names, base, strict=True)))
        return self.step(model, references, priors, chosen, supervision, injected.disabled), injected

    def _pools(
        self, model: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings, progress: Progress
    ) -> tuple[EncodedSet, EncodedSet | None, Supervision | None]:
        """References, priors, and what L_local compares; the last two where they have a weight."""

        def pool(samples: Sequence[Sample], masks: bool) -> EncodedSet:
            built = encode_set(model, samples, chosen.resolution, progress, masks, live_text=chosen.reads_text)
            weights = drawing_weights(samples, chosen.composite_share)
            if len(pictures.concepts) > 1 or any(sample.pasted for sample in samples):
                log.info("%s are drawn: %s", samples[0].role, draws_told(samples, weights, pictures.concepts))
            return replace(built, weights=weights, late_weights=natural_weights(samples, weights))

        references = pool(pictures.references, chosen.background_weight < 1)
        supervision = None
        if chosen.local_weight > 0:
            supervision = supervise(model, references, pictures.references, pictures.concepts)
        priors = pool(pictures.priors, False) if pictures.priors and chosen.prior_weight > 0 else None
        return references, priors, supervision


def base_words(model: DiffusionModel, pictures: TrainingSet) -> tuple[tuple[str, ...], Conditioning, Conditioning]:
    """The references' captions as the base is told them, without identifiers; them encoded, and the empty one."""
    captions = tuple(strip_identifiers(sample.caption, pictures.concepts) for sample in pictures.references)
    return captions, encoded(model, captions), encoded(model, [""])


def _tell(pictures: TrainingSet, chosen: SubjectSettings) -> None:
    """Name in the log what will be learned badly."""
    held = chosen.objective == "dco" or chosen.preservation_weight > 0
    if chosen.prior_weight > 0 and not pictures.priors and not held:
        log.warning("there are no prior pictures, so the class itself may drift towards the subject")
    references = pictures.references
    if chosen.background_weight < 1 and not any(sample.masks for sample in references):
        log.warning("background_weight is %g, but no picture has a mask: it does nothing", chosen.background_weight)
    usual = SubjectSettings.named_fields()["composite_share"].default
    if chosen.composite_share != usual and not any(sample.others for sample in pictures.samples):
        caption_kept = "no picture shows several subjects (Segment and Paste makes such): it does nothing"
        log.warning("composite_share is %g, but %s", chosen.composite_share, caption_kept)
    unseen = len(pictures.references) - chosen.steps * chosen.batch_size
    if unseen > 0:
        log.warning("%d of the %d pictures are never seen: choose more steps", unseen, len(pictures.references))


def train_subject(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    context: TrainingContext,
    start_from: Adapter | None = None,
) -> TrainingResult:
    """Teach `base` the subject of `pictures`.

    A finished run with the same content key is returned; a cut one is gone on with, and ends (on a CPU) bit for bit as
    if it had not been cut. However training ends, its state and the LoRA so far lie in the run's folder.

    Args:
        start_from: an adapter to train on from; it must fit `settings`.

    Raises:
        FewShotError: something a person can mend: pictures, settings, disk, divergence.
        BaseException: whatever `context.progress.check` raises.
    """
    if not pictures.references:
        raise FewShotError("there are no reference pictures to learn from. Give at least one, better three to ten.")
    return train_with(SubjectTraining(), base, pictures, settings, context, start_from)
