"""Denoising of pictures of a set: what a step draws, predicts, and counts as error, for one or more loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from ...core.randomness import Randomness
from ...models.conditioning import Conditioning, rows_of
from ...models.contract import DiffusionModel
from .. import losses
from ..data.batch import TermBatch, select_conditioning
from ..data.encoded_set import EncodedSet
from ..data.sampling_weights import NATURAL_END
from ..health import Divergence
from ..loop import Share
from ..settings.training import DenoisingSettings

REFERENCE = "reference"


class DenoisingStep:
    """The step for one set of networks, pools and settings (with every `auto` resolved).

    Each step draws `batch_size` pictures of each pool. A term draws from streams of its own, and its mean is taken over
    its own samples only.

    Args:
        pools: by the term that draws from it.
        names: of terms that are called otherwise than what they draw from.
    """

    def __init__(
        self,
        model: DiffusionModel,
        pools: Mapping[str, EncodedSet],
        settings: DenoisingSettings,
        names: Mapping[str, str] = MappingProxyType({}),
    ):
        self.model = model
        self.settings = settings
        self.pools = dict(pools)
        self.names = {term: names.get(term, term) for term in pools}
        self.weights: dict[str, float] = {self.names[REFERENCE]: 1.0}
        self.divergence: Divergence | None = Divergence(tuple(self.names[term] for term in self.pools))
        self.random = Randomness(settings.seed, model.device)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the pictures in pixels."""
        return self.settings.resolution, self.settings.resolution

    @property
    def reads_text(self) -> bool:
        """Whether prompts are encoded anew in each step."""
        return any(pool.conditioning is None for pool in self.pools.values())

    memory = None

    def best_checkpoint(self, run: object, on_device: object) -> None:
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
        batches = self.draw_batches(step, rows)
        return self.means(batches, self.predict(list(batches.values())))

    def draw_batches(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, TermBatch]:
        """What is drawn for `rows`, by term."""
        wanted = {term: [i for of, i in rows if of == term] for term in self.pools}
        return {term: self.draw(term, step, samples) for term, samples in wanted.items() if samples}

    def means(self, batches: Mapping[str, TermBatch], predictions: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the predictions add to each term's mean."""
        return {
            self.names[term]: losses.part_of_mean(self.errors(term, batch, prediction), self.settings.batch_size)
            for (term, batch), prediction in zip(batches.items(), predictions, strict=True)
        }

    def draw(self, term: str, step: int, samples: Sequence[int]) -> TermBatch:
        """Pictures, latents, timesteps and noise of `samples`: functions of (seed, term, step, sample) only."""
        pool, random, process = self.pools[term], self.random, self.model.process
        indices = self.sample_indices(term, step, samples)
        mean, std = rows_of(pool.mean, indices), rows_of(pool.std, indices)
        clean = mean + std * random.normal(f"{term}/latent", step, samples, mean.shape[1:])
        noise = self.noise(term, step, samples, mean.shape[1:])
        times = self.times(term, step, samples)
        caption_kept = self.caption_kept(term, step, samples)
        return TermBatch(
            latents=process.add_noise(clean, noise, times),
            times=times,
            target=process.target(clean, noise, times),
            conditioning=None
            if pool.conditioning is None
            else select_conditioning(pool.conditioning, pool.dropped, indices, caption_kept),
            prompts=tuple(pool.prompts[i] if kept else "" for i, kept in zip(indices, caption_kept, strict=True)),
            sizes=None if pool.sizes is None else rows_of(pool.sizes, indices),
            masks=None if pool.masks is None else rows_of(pool.masks, indices),
            indices=tuple(indices),
            caption_kept=tuple(caption_kept),
            background_weights=None if pool.background_weights is None else rows_of(pool.background_weights, indices),
        )

    def noise(self, term: str, step: int, samples: Sequence[int], shape: torch.Size) -> torch.Tensor:
        """The samples' noise (n, C, h, w)."""
        return self.random.normal(f"{term}/noise", step, samples, shape)

    def caption_kept(self, term: str, step: int, samples: Sequence[int]) -> list[bool]:
        """Which samples have their caption."""
        return [True] * len(samples)

    def sample_indices(self, term: str, step: int, samples: Sequence[int]) -> list[int]:
        """Which pictures of the term's pool the samples are."""
        pool, first = self.pools[term], step * self.settings.batch_size
        weights = pool.weights
        if pool.late_weights is not None and step >= (1 - NATURAL_END) * self.settings.steps:
            weights = pool.late_weights
        return [self.random.choose(f"{term}/picture", first + i, weights) for i in samples]

    def times(self, term: str, step: int, samples: Sequence[int]) -> torch.Tensor:
        """The samples' timesteps (n,), all alike probable."""
        return self.model.process.draw_times(self.random, f"{term}/timestep", step, samples, self.size)

    def predict(self, batches: Sequence[TermBatch]) -> tuple[torch.Tensor, ...]:
        """The denoiser's predictions for each half, all in one call."""
        sizes = [batch.sizes for batch in batches if batch.sizes is not None]
        prediction = self.model.predict(
            torch.cat([batch.latents for batch in batches]),
            torch.cat([batch.times for batch in batches]),
            self._conditioning(batches),
            torch.cat(sizes) if sizes else None,
        )
        return prediction.split([len(batch.times) for batch in batches])

    def _conditioning(self, batches: Sequence[TermBatch]) -> Conditioning:
        """From the cache, or encoded now where the text encoder or its words are trained."""
        cached = [batch.conditioning for batch in batches if batch.conditioning is not None]
        if cached:
            return Conditioning.cat(cached)
        prompts = [prompt for batch in batches for prompt in batch.prompts]
        unique = list(dict.fromkeys(prompts))
        return self.model.encode_prompts(unique).take([unique.index(prompt) for prompt in prompts])

    def errors(self, term: str, batch: TermBatch, prediction: torch.Tensor) -> torch.Tensor:
        """The losses (n,) of one term's samples."""
        return losses.reference_loss(prediction, batch.target, self.loss_weights(term, batch))

    def background(self, term: str) -> float:
        """The weight of what lies outside the masks of a term's pictures."""
        return 1.0

    def loss_weights(self, term: str, batch: TermBatch) -> torch.Tensor | None:
        """The weights (n, 1, h, w) of the loss: lower on backgrounds, as the settings or a composite want it."""
        if batch.masks is None:
            return None
        background = self.background(term)
        if batch.background_weights is None:
            return losses.weight_map(batch.masks, background)
        return losses.weight_map(batch.masks, batch.background_weights.clamp(max=background))
