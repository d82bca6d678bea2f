"""Subject training: what one step computes, L_ref + prior_weight * L_prior (DreamBooth, Ruiz et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.adapters import Injected, LoraSpec, inject
from ..models.errors import FewShotError
from ..models.loading import Networks
from ..models.text import Conditioning, denoise, encode_prompts
from ..models.values import Adapter, BaseModelRef, Sample, TrainingSet
from ..models.watching import Watcher
from .cache import Pool, build_pool
from .loop import Share
from .losses import min_snr_weight, part_of_mean, prior_loss, reference_loss, weight_map
from .processes import Processes
from .randomness import Randomness
from .settings import SubjectSettings
from .training import TrainingResult, train_with
from .validation import Validator

log = logging.getLogger(__name__)

REFERENCE, PRIOR = "reference", "prior"


@dataclass(frozen=True)
class Half:
    """The samples of one term in one pass: noisy latents (n, C, h, w) at `times` (n,), and what belongs to them."""

    latents: torch.Tensor
    times: torch.Tensor
    target: torch.Tensor
    conditioning: Conditioning | None
    prompts: tuple[str, ...]
    sizes: torch.Tensor | None
    masks: torch.Tensor | None


class SubjectStep:
    """The step for one set of networks, pools and settings (with every `auto` resolved).

    Each step draws `batch_size` samples for each term. A term draws from streams of its own, and its mean is taken
    over its own samples only; a term of weight 0 is not computed at all.
    """

    def __init__(self, networks: Networks, references: Pool, priors: Pool | None, settings: SubjectSettings):
        self.networks = networks
        self.settings = settings
        self.pools = {REFERENCE: references}
        self.weights: dict[str, float] = {REFERENCE: 1.0}
        if priors is not None and settings.prior_weight > 0:
            self.pools[PRIOR] = priors
            self.weights[PRIOR] = settings.prior_weight
        self.random = Randomness(settings.seed, networks.device)

    def passes(self, step: int, share: Share) -> Iterator[Mapping[str, torch.Tensor]]:
        """What each pass adds to L_ref and L_prior; all samples in one pass unless `micro_batch` is smaller."""
        batch, most = self.settings.batch_size, self.settings.micro_batch
        rows = share([(term, i) for term in self.weights for i in range(batch)])
        for start in range(0, len(rows), most):
            yield self.losses(step, rows[start : start + most])

    def losses(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, torch.Tensor]:
        """One call of the denoiser for `rows` of (term, global sample index), and what it adds to each term."""
        wanted = {term: [i for of, i in rows if of == term] for term in self.weights}
        halves = {term: self.draw(term, step, samples) for term, samples in wanted.items() if samples}
        predictions = self.predict(list(halves.values()))
        terms = {}
        for (term, half), prediction in zip(halves.items(), predictions, strict=True):
            terms[term] = part_of_mean(self.errors(term, half, prediction), self.settings.batch_size)
        return terms

    def draw(self, term: str, step: int, samples: Sequence[int]) -> Half:
        """Pictures, latents, timesteps and noise of `samples`: functions of (seed, term, step, sample) only."""
        pool, random, schedule = self.pools[term], self.random, self.networks.schedule
        first = step * self.settings.batch_size
        picks = [random.choose(f"{term}/picture", first + i, pool.weights) for i in samples]
        mean, std = _rows(pool.mean, picks), _rows(pool.std, picks)
        clean = mean + std * random.normal(f"{term}/latent", step, samples, mean.shape[1:])
        noise = random.normal(f"{term}/noise", step, samples, mean.shape[1:])
        if self.settings.noise_offset:
            offset = random.normal(f"{term}/offset", step, samples, (mean.shape[1], 1, 1))
            noise = noise + self.settings.noise_offset * offset
        times = random.integers(f"{term}/timestep", step, samples, len(schedule))
        told = pool.conditioning
        return Half(
            latents=schedule.add_noise(clean, noise, times),
            times=times,
            target=schedule.target(clean, noise, times),
            conditioning=None if told is None else Conditioning.cat([told.take(slice(i, i + 1)) for i in picks]),
            prompts=tuple(pool.prompts[i] for i in picks),
            sizes=None if pool.sizes is None else _rows(pool.sizes, picks),
            masks=None if pool.masks is None else _rows(pool.masks, picks),
        )

    def predict(self, halves: Sequence[Half]) -> tuple[torch.Tensor, ...]:
        """The denoiser's predictions for each half, all in one call."""
        device, dtype = self.networks.device, self.networks.dtype
        sizes = [half.sizes for half in halves if half.sizes is not None]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            prediction = denoise(
                self.networks,
                torch.cat([half.latents for half in halves]),
                torch.cat([half.times for half in halves]),
                self._conditioning(halves),
                torch.cat(sizes) if sizes else None,
            )
        return prediction.split([len(half.times) for half in halves])

    def _conditioning(self, halves: Sequence[Half]) -> Conditioning:
        """From the cache, or encoded now where the text encoder is trained."""
        cached = [half.conditioning for half in halves if half.conditioning is not None]
        if cached:
            return Conditioning.cat(cached)
        prompts = [prompt for half in halves for prompt in half.prompts]
        unique = list(dict.fromkeys(prompts))
        return encode_prompts(self.networks, unique).take([unique.index(prompt) for prompt in prompts])

    def errors(self, term: str, half: Half, prediction: torch.Tensor) -> torch.Tensor:
        """The losses (n,) of one term's samples."""
        weight = None
        if self.settings.min_snr_gamma:
            schedule = self.networks.schedule
            weight = min_snr_weight(schedule.snr(half.times), self.settings.min_snr_gamma, schedule.prediction)
        if term == PRIOR:
            return prior_loss(prediction, half.target, weight)
        places = None if half.masks is None else weight_map(half.masks, self.settings.background_weight)
        return reference_loss(prediction, half.target, places, weight)


def _rows(tensor: torch.Tensor, picks: Sequence[int]) -> torch.Tensor:
    """Rows by indices that the host knows, without copying an index to the device."""
    return torch.stack([tensor[i] for i in picks])


class SubjectTraining:
    """The method: which layers get an adapter, and what is computed once before the first step."""

    name = "subject"
    revision = 1  # raised too when a rule of `auto` or a default that is not a setting changes

    def prepare(
        self,
        networks: Networks,
        pictures: TrainingSet,
        chosen: SubjectSettings,
        start_from: Adapter | None,
        watcher: Watcher,
    ) -> tuple[SubjectStep, Injected]:
        """Encode pictures and prompts, and put the layers in."""
        if chosen.prior_weight > 0 and not pictures.priors:
            log.warning("there are no prior pictures, so the class itself may drift towards the subject")

        def pool(samples: Sequence[Sample], masks: bool) -> Pool:
            return build_pool(networks, samples, chosen.resolution, watcher, masks, live_text=chosen.text_encoder)

        references = pool(pictures.references, chosen.background_weight < 1)
        priors = pool(pictures.priors, False) if pictures.priors and chosen.prior_weight > 0 else None
        spec = LoraSpec(chosen.rank, chosen.alpha)
        sets = {chosen.parameter_set: spec} | ({"text": spec} if chosen.text_encoder else {})
        return SubjectStep(networks, references, priors, chosen), inject(networks, sets, chosen.seed, start_from)


def train_subject(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    runs: Path,
    device: torch.device | str,
    watcher: Watcher | None = None,
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
        BaseException: whatever `watcher.check` raises.
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
        watcher,
        name,
        start_from,
        tokenizer_folder,
        processes,
        validator,
    )
