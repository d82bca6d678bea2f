"""Subject training: what one step computes, L_ref + prior_weight * L_prior + local_weight * L_local.

L_ref and L_prior are DreamBooth's (Ruiz et al. 2023); L_local ties the attention of the subject's words to its mask.
With DCO (Lee et al. 2024) the base's own error on the reference pictures takes the place of prior pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.prompts import strip_identifiers
from ...core.randomness import Randomness
from ...core.settings import SubjectSettings
from ...core.values import Adapter, BaseModelRef, Sample, TrainingSet
from ...models.adapters.inject import Injected, inject
from ...models.adapters.learned_tokens import LearnedTokens
from ...models.attention import RecordedAttention, shares_on_grid
from ...models.conditioning import Conditioning
from ...models.contract import DiffusionModel
from .. import losses
from ..data.batch import Half, rows_of, told_to
from ..data.caption_check import captioned
from ..data.encoded_set import Pool, build_pool, encoded
from ..data.sampling_weights import NATURAL_END, drawing_weights, draws_told, natural_weights
from ..distributed import Processes
from ..health import Divergence
from ..loop import Share
from ..run import TrainingResult, train_with
from ..targets import sets_of, token_specs
from ..validation.image_metrics import Validator
from .attention_supervision import Supervision, supervise

log = logging.getLogger(__name__)

REFERENCE, PRIOR, LOCAL, DCO = "reference", "prior", "local", "dco"
LOCAL_WARMUP = 0.1
"""the share of the steps, the first ones, over which L_local's gradient rises: attention has to find the word first"""


class SubjectStep:
    """The step for one set of networks, pools and settings (with every `auto` resolved).

    Each step draws `batch_size` references and as many priors. A term draws from streams of its own, and its mean is
    taken over its own samples only; a term of weight 0 is not computed at all.

    Args:
        supervision: of the references' pool, where L_local has a weight.
        without: the context in which the networks are as they were before training, for DCO.
    """

    def __init__(
        self,
        networks: DiffusionModel,
        references: Pool,
        priors: Pool | None,
        settings: SubjectSettings,
        supervision: Supervision | None = None,
        without: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.networks = networks
        self.settings = settings
        self.supervision = supervision
        self.without = without
        self.pools = {REFERENCE: references}
        self.names = {REFERENCE: DCO if settings.objective == "dco" else REFERENCE, PRIOR: PRIOR}
        self.weights: dict[str, float] = {self.names[REFERENCE]: 1.0}
        if priors is not None and settings.prior_weight > 0:
            self.pools[PRIOR] = priors
            self.weights[PRIOR] = settings.prior_weight
        if supervision is not None and settings.local_weight > 0:
            self.weights[LOCAL] = settings.local_weight
        self.divergence: Divergence | None = Divergence(tuple(self.names[term] for term in self.pools))
        self.random = Randomness(settings.seed, networks.device)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels."""
        return self.settings.resolution, self.settings.resolution

    @property
    def reads_text(self) -> bool:
        """Whether prompts are encoded anew in each step."""
        return any(pool.conditioning is None for pool in self.pools.values())

    memory = None

    def course(self, run: object, awake: object) -> None:
        """The usual validation on held-out prompts."""
        return None

    def passes(self, step: int, share: Share) -> Iterator[Mapping[str, torch.Tensor]]:
        """What each pass adds to each term; all samples in one pass unless `micro_batch` is smaller."""
        batch, most = self.settings.batch_size, self.settings.micro_batch
        rows = share([(term, i) for term in self.pools for i in range(batch)])
        for start in range(0, len(rows), most):
            yield self.losses(step, rows[start : start + most])

    def losses(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, torch.Tensor]:
        """One call of the denoiser for `rows` of (term, global sample index), and what it adds to each term."""
        wanted = {term: [i for of, i in rows if of == term] for term in self.pools}
        halves = {term: self.draw(term, step, samples) for term, samples in wanted.items() if samples}
        with self._watched(halves) as kept:
            predictions = self.predict(list(halves.values()))
        terms, batch = {}, self.settings.batch_size
        for (term, half), prediction in zip(halves.items(), predictions, strict=True):
            terms[self.names[term]] = losses.part_of_mean(self.errors(term, half, prediction), batch)
        if kept is not None:
            error = losses.part_of_mean(self.local_errors(halves[REFERENCE], kept), batch)
            risen = min(1.0, (step + 1) / (LOCAL_WARMUP * self.settings.steps))
            terms[LOCAL] = risen * error + (1.0 - risen) * error.detach()  # told as it is, felt as far as it has risen
        return terms

    def draw(self, term: str, step: int, samples: Sequence[int]) -> Half:
        """Pictures, latents, timesteps and noise of `samples`: functions of (seed, term, step, sample) only."""
        pool, random, process = self.pools[term], self.random, self.networks.process
        picks = self.picks(term, step, samples)
        mean, std = rows_of(pool.mean, picks), rows_of(pool.std, picks)
        clean = mean + std * random.normal(f"{term}/latent", step, samples, mean.shape[1:])
        noise = random.normal(f"{term}/noise", step, samples, mean.shape[1:])
        if self.settings.noise_offset:
            offset = random.normal(f"{term}/offset", step, samples, (mean.shape[1], *[1] * (mean.dim() - 2)))
            noise = noise + self.settings.noise_offset * offset
        times = self.times(term, step, samples)
        told = [not random.happens(f"{term}/dropped", step, i, self.settings.caption_dropout) for i in samples]
        return Half(
            latents=process.add_noise(clean, noise, times),
            times=times,
            target=process.target(clean, noise, times),
            conditioning=None if pool.conditioning is None else told_to(pool.conditioning, pool.dropped, picks, told),
            prompts=tuple(pool.prompts[i] if kept else "" for i, kept in zip(picks, told, strict=True)),
            sizes=None if pool.sizes is None else rows_of(pool.sizes, picks),
            masks=None if pool.masks is None else rows_of(pool.masks, picks),
            picks=tuple(picks),
            told=tuple(told),
            grounds=None if pool.grounds is None else rows_of(pool.grounds, picks),
        )

    def picks(self, term: str, step: int, samples: Sequence[int]) -> list[int]:
        """Which pictures of the term's pool the samples are."""
        pool, first = self.pools[term], step * self.settings.batch_size
        weights = pool.weights
        if pool.late_weights is not None and step >= (1 - NATURAL_END) * self.settings.steps:
            weights = pool.late_weights
        return [self.random.choose(f"{term}/picture", first + i, weights) for i in samples]

    def times(self, term: str, step: int, samples: Sequence[int]) -> torch.Tensor:
        """The samples' timesteps (n,), all alike probable."""
        return self.networks.process.draw_times(self.random, f"{term}/timestep", step, samples, self.size)

    def predict(self, halves: Sequence[Half]) -> tuple[torch.Tensor, ...]:
        """The denoiser's predictions for each half, all in one call."""
        sizes = [half.sizes for half in halves if half.sizes is not None]
        prediction = self.networks.predict(
            torch.cat([half.latents for half in halves]),
            torch.cat([half.times for half in halves]),
            self._conditioning(halves),
            torch.cat(sizes) if sizes else None,
        )
        return prediction.split([len(half.times) for half in halves])

    def _conditioning(self, halves: Sequence[Half]) -> Conditioning:
        """From the cache, or encoded now where the text encoder or its words are trained."""
        cached = [half.conditioning for half in halves if half.conditioning is not None]
        if cached:
            return Conditioning.cat(cached)
        prompts = [prompt for half in halves for prompt in half.prompts]
        unique = list(dict.fromkeys(prompts))
        return self.networks.encode_prompts(unique).take([unique.index(prompt) for prompt in prompts])

    def errors(self, term: str, half: Half, prediction: torch.Tensor) -> torch.Tensor:
        """The losses (n,) of one term's samples."""
        weight = None
        if self.settings.min_snr_gamma:
            process, times = self.networks.process, half.times
            weight = losses.min_snr_weight(process.snr(times), process.error_ratio(times), self.settings.min_snr_gamma)
        places = self._places(term, half)
        if term == PRIOR:
            return losses.prior_loss(prediction, half.target, weight, places)
        if self.settings.objective != "dco":
            return losses.reference_loss(prediction, half.target, places, weight)
        own = losses.squared_error(prediction, half.target, places)
        base = losses.squared_error(self.base_prediction(half), half.target, places)
        error = losses.consistency_loss(own, base, self.settings.dco_beta)
        return error if weight is None else error * weight

    def _places(self, term: str, half: Half) -> torch.Tensor | None:
        """The weights (n, 1, h, w) of the loss: lower on backgrounds, as the settings or a composite want it."""
        if half.masks is None:
            return None
        background = 1.0 if term == PRIOR else self.settings.background_weight
        if half.grounds is None:
            return losses.weight_map(half.masks, background)
        return losses.weight_map(half.masks, half.grounds.clamp(max=background))

    @torch.no_grad()
    def base_prediction(self, half: Half) -> torch.Tensor:
        """What the denoiser predicts without what is trained, told of the class only."""
        pool = self.pools[REFERENCE]
        assert pool.base is not None
        told = told_to(pool.base, pool.base_dropped, half.picks, half.told)
        with self.without():
            return self.predict([replace(half, conditioning=told)])[0]

    def _watched(self, halves: Mapping[str, Half]) -> AbstractContextManager[RecordedAttention | None]:
        """The context that keeps the references' attention where L_local is computed."""
        if self.supervision is None or LOCAL not in self.weights or REFERENCE not in halves:
            return nullcontext()
        return self.networks.record_attention(self.supervision.layers)

    def local_errors(self, half: Half, kept: RecordedAttention) -> torch.Tensor:
        """L_local (n,) of the references, which are the first of the batch.

        Weighted by sqrt(a_t), since a picture of nearly pure noise does not show where anything is; the plain reading
        weighs all timesteps alike.
        """
        assert self.supervision is not None
        rows = self.supervision.take(half.picks, half.told)
        size = (half.latents.shape[-2], half.latents.shape[-1])
        shares = shares_on_grid(kept, slice(len(half.times)), size, rows.wanted, rows.known, rows.member)
        if self.settings.local_attention == "plain":
            return losses.local_loss_of_maxima(shares, rows.masks, rows.valid)
        signal = self.networks.process.signal(half.times)
        return losses.local_loss(shares, rows.masks, rows.valid) * signal


class SubjectTraining:
    """The method: what is trained, and what is computed once before the first step."""

    name = "subject"
    inputs = ()
    revision = 4  # raised too when a rule of `auto` or a default that is not a setting changes

    def prepare(
        self,
        networks: DiffusionModel,
        pictures: TrainingSet,
        chosen: SubjectSettings,
        start_from: Adapter | None,
        progress: Progress,
    ) -> tuple[SubjectStep, Injected]:
        """Put in what is trained, and encode pictures and prompts."""
        _tell(pictures, chosen)
        words = LearnedTokens(networks, token_specs(chosen, pictures), start_from)
        try:
            pictures = captioned(networks, pictures)
            base = base_words(networks, pictures) if chosen.objective == "dco" else None
        except BaseException:
            words.remove()
            raise
        injected = inject(networks, sets_of(chosen), chosen.seed, start_from, words)
        try:  # prompts are encoded with what stays on of the adapter that is trained on from
            references, priors, supervision = self._pools(networks, pictures, chosen, progress)
        except BaseException:
            injected.remove()
            raise
        if base is not None:
            references = replace(references, base=base[0], base_dropped=base[1])
        return SubjectStep(networks, references, priors, chosen, supervision, injected.disabled), injected

    def _pools(
        self, networks: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings, progress: Progress
    ) -> tuple[Pool, Pool | None, Supervision | None]:
        """References, priors, and what L_local compares; the last two where they have a weight."""

        def pool(samples: Sequence[Sample], masks: bool) -> Pool:
            built = build_pool(networks, samples, chosen.resolution, progress, masks, live_text=chosen.reads_text)
            weights = drawing_weights(samples, chosen.composite_share)
            if len(pictures.concepts) > 1 or any(sample.pasted for sample in samples):
                log.info("%s are drawn: %s", samples[0].role, draws_told(samples, weights, pictures.concepts))
            return replace(built, weights=weights, late_weights=natural_weights(samples, weights))

        references = pool(pictures.references, chosen.background_weight < 1)
        supervision = None
        if chosen.local_weight > 0:
            content = chosen.local_attention == "content"
            supervision = supervise(networks, references, pictures.references, pictures.concepts, content)
        priors = pool(pictures.priors, False) if pictures.priors and chosen.prior_weight > 0 else None
        return references, priors, supervision


def base_words(networks: DiffusionModel, pictures: TrainingSet) -> tuple[Conditioning, Conditioning]:
    """The references' captions as the base is told them, without identifiers, and the empty one; before training."""
    told = [strip_identifiers(sample.caption, pictures.concepts) for sample in pictures.references]
    return encoded(networks, told), encoded(networks, [""])


def _tell(pictures: TrainingSet, chosen: SubjectSettings) -> None:
    """Name in the log what will be learned badly."""
    if chosen.prior_weight > 0 and not pictures.priors and chosen.objective != "dco":
        log.warning("there are no prior pictures, so the class itself may drift towards the subject")
    references = pictures.references
    if chosen.background_weight < 1 and not any(sample.masks for sample in references):
        log.warning("background_weight is %g, but no picture has a mask: it does nothing", chosen.background_weight)
    usual = SubjectSettings.__dataclass_fields__["composite_share"].default
    if chosen.composite_share != usual and not any(sample.others for sample in pictures.samples):
        told = "no picture shows several subjects (Segment and Paste makes such): it does nothing"
        log.warning("composite_share is %g, but %s", chosen.composite_share, told)
    unseen = len(pictures.references) - chosen.steps * chosen.batch_size
    if unseen > 0:
        log.warning("%d of the %d pictures are never seen: choose more steps", unseen, len(pictures.references))


def train_subject(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    runs: Path,
    device: torch.device | str,
    progress: Progress | None = None,
    name: str = "subject",
    start_from: Adapter | None = None,
    tokenizer_folder: Path | None = None,
    processes: Processes | None = None,
    validator: Validator | None = None,
) -> TrainingResult:
    """Teach `base` the subject of `pictures`.

    A finished run with the same content key is returned; a cut one is gone on with, and ends (on a CPU) bit for bit as
    if it had not been cut. However training ends, its state and the LoRA so far lie in the run's folder.

    Args:
        runs: the folder of runs; this one's is <runs>/<name>_<key>/.
        name: of the folder and the LoRA in it; it does not matter to what is learned.
        start_from: an adapter to train on from; it must fit `settings`.
        processes: where several compute one run together.
        validator: what chooses the best of the validated steps, which is returned; without it the last one is.

    Raises:
        FewShotError: something a person can mend: pictures, settings, disk, divergence.
        BaseException: whatever `progress.check` raises.
    """
    if not pictures.references:
        raise FewShotError("there are no reference pictures to learn from. Give at least one, better three to ten.")
    return train_with(
        SubjectTraining(),
        base,
        pictures,
        settings,
        Path(runs),
        device,
        progress,
        name,
        start_from,
        tokenizer_folder,
        processes,
        validator,
    )
