"""Denoising of pictures of a set: what a step draws, predicts, and counts as error, for one or more loss terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import torch

from ...core.randomness import Randomness
from ...models.conditioning import Conditioning
from ...models.contract import DiffusionModel
from .. import losses
from ..data.batch import Half, rows_of, told_to
from ..data.encoded_set import Pool
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
        pools: Mapping[str, Pool],
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
        halves = self.halves(step, rows)
        return self.means(halves, self.predict(list(halves.values())))

    def halves(self, step: int, rows: Sequence[tuple[str, int]]) -> dict[str, Half]:
        """What is drawn for `rows`, by term."""
        wanted = {term: [i for of, i in rows if of == term] for term in self.pools}
        return {term: self.draw(term, step, samples) for term, samples in wanted.items() if samples}

    def means(self, halves: Mapping[str, Half], predictions: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """What the predictions add to each term's mean."""
        return {
            self.names[term]: losses.part_of_mean(self.errors(term, half, prediction), self.settings.batch_size)
            for (term, half), prediction in zip(halves.items(), predictions, strict=True)
        }

    def draw(self, term: str, step: int, samples: Sequence[int]) -> Half:
        """Pictures, latents, timesteps and noise of `samples`: functions of (seed, term, step, sample) only."""
        pool, random, process = self.pools[term], self.random, self.model.process
        picks = self.picks(term, step, samples)
        mean, std = rows_of(pool.mean, picks), rows_of(pool.std, picks)
        clean = mean + std * random.normal(f"{term}/latent", step, samples, mean.shape[1:])
        noise = self.noise(term, step, samples, mean.shape[1:])
        times = self.times(term, step, samples)
        told = self.told(term, step, samples)
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

    def noise(self, term: str, step: int, samples: Sequence[int], shape: torch.Size) -> torch.Tensor:
        """The samples' noise (n, C, h, w)."""
        return self.random.normal(f"{term}/noise", step, samples, shape)

    def told(self, term: str, step: int, samples: Sequence[int]) -> list[bool]:
        """Which samples have their caption."""
        return [True] * len(samples)

    def picks(self, term: str, step: int, samples: Sequence[int]) -> list[int]:
        """Which pictures of the term's pool the samples are."""
        pool, first = self.pools[term], step * self.settings.batch_size
        weights = pool.weights
        if pool.late_weights is not None and step >= (1 - NATURAL_END) * self.settings.steps:
            weights = pool.late_weights
        return [self.random.choose(f"{term}/picture", first + i, weights) for i in samples]

    def times(self, term: str, step: int, samples: Sequence[int]) -> torch.Tensor:
        """The samples' timesteps (n,), all alike probable."""
        return self.model.process.draw_times(self.random, f"{term}/timestep", step, samples, self.size)

    def predict(self, halves: Sequence[Half]) -> tuple[torch.Tensor, ...]:
        """The denoiser's predictions for each half, all in one call."""
        sizes = [half.sizes for half in halves if half.sizes is not None]
        prediction = self.model.predict(
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
        return self.model.encode_prompts(unique).take([unique.index(prompt) for prompt in prompts])

    def errors(self, term: str, half: Half, prediction: torch.Tensor) -> torch.Tensor:
        """The losses (n,) of one term's samples."""
        return losses.reference_loss(prediction, half.target, self.places(term, half))

    def background(self, term: str) -> float:
        """The weight of what lies outside the masks of a term's pictures."""
        return 1.0

    def places(self, term: str, half: Half) -> torch.Tensor | None:
        """The weights (n, 1, h, w) of the loss: lower on backgrounds, as the settings or a composite want it."""
        if half.masks is None:
            return None
        background = self.background(term)
        if half.grounds is None:
            return losses.weight_map(half.masks, background)
        return losses.weight_map(half.masks, half.grounds.clamp(max=background))
