"""Rounds of refinement: which prompts are drawn, the pictures' whole way through the sampler, and their rewards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...core.progress import Progress
from ...core.randomness import Randomness
from ...core.values import Prompt
from ...evaluation.reward import RewardModels
from ...models.conditioning import Conditioning
from ...models.contract import DiffusionModel
from ...models.sampling import guided
from .sampler_policy import SamplerPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Way:
    """What the denoiser saw of this process's samples: `samples` are global indices within the round.

    latents: (n, steps + 1, C, h, w) fp32 on the host, from noise to picture: rounded to halves they would change
    log-probabilities by more than the clip range.
    """

    samples: tuple[int, ...]
    latents: Tensor

    def at(self, sample: int) -> Tensor:
        """The way (steps + 1, C, h, w) of one sample."""
        return self.latents[self.samples.index(sample)]


def one(sample: int) -> float:
    """The subject's own strength, for every sample."""
    return 1.0


@dataclass(frozen=True)
class RolloutOptions:
    """How pictures are drawn: `side` in pixels, and the most rows of the denoiser in one pass."""

    guidance: float
    side: int
    rows: int
    seed: int


class Painter:
    """Draws with the networks as they are. Prompts are encoded once, with what is on of the adapters then.

    `on_device` is the context in which all networks can compute.

    Args:
        changed: the context in which the subject's strength is changed by that much.
    """

    def __init__(
        self,
        model: DiffusionModel,
        prompts: Sequence[Prompt],
        policy: SamplerPolicy,
        options: RolloutOptions,
        progress: Progress,
        changed: Callable[[float], AbstractContextManager] = nullcontext,
    ):
        self.model, self.policy, self.guidance, self.prompts = model, policy, options.guidance, tuple(prompts)
        self.random, self.progress, self.changed = Randomness(options.seed, model.device), progress, changed
        self.on_device: Callable[[], AbstractContextManager] = nullcontext
        self.guided = options.guidance > 1.0
        self.at_once = max(1, options.rows // (2 if self.guided else 1))
        self.size = (options.side, options.side)
        self.shape = model.latent_shape(*self.size)
        with torch.no_grad():
            self.told = model.encode_prompts([prompt.text for prompt in prompts]).detach()
            self.against = model.encode_prompts([""]).detach()

    @torch.no_grad()
    def learn_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Know these prompts too; their indices follow those of `prompts`."""
        more = self.model.encode_prompts([prompt.text for prompt in prompts]).detach()
        self.told = Conditioning.cat([self.told, more])

    def predict(self, latents: Tensor, places: Tensor, prompts: Sequence[int]) -> Tensor:
        """The denoiser's prediction (n, C, h, w), guided, for latents before the steps at `places` (n,)."""
        told = self.told.take(prompts)
        if self.guided:
            told = Conditioning.cat([self.against.repeat(len(prompts)), told])
        return guided(self.model, latents, self.policy.times(places), told, self.guidance)

    def told_prediction(self, latents: Tensor, times: Tensor, prompts: Sequence[int]) -> Tensor:
        """The prediction (n, C, h, w) with the prompt alone, at timesteps (n,): what is learned of pictures."""
        return self.model.predict(latents, times, self.told.take(prompts))

    @torch.no_grad()
    def draw(
        self, round: int, samples: Sequence[int], prompts: Sequence[int], strength: Callable[[int], float] = one
    ) -> Way:
        """The ways of `samples` of a round, of which i is told `prompts[i]`, with the subject at `strength(i)`."""
        found = torch.zeros(len(samples), len(self.policy) + 1, *self.shape)
        for level in dict.fromkeys(map(strength, samples)):
            rows = [row for row, i in enumerate(samples) if strength(i) == level]
            with self.changed(level - 1) if level != 1 else nullcontext():
                for start in range(0, len(rows), self.at_once):
                    some = rows[start : start + self.at_once]
                    found[some] = self._way(round, [samples[row] for row in some], prompts)
        return Way(tuple(samples), found)

    def _way(self, round: int, some: Sequence[int], prompts: Sequence[int]) -> Tensor:
        """The ways (n, steps + 1, C, h, w) of few enough samples."""
        latents = self.random.normal("refine/start", round, some, self.shape)
        way = [latents.cpu()]
        for place in range(len(self.policy)):
            self.progress.check()
            places = torch.full((len(some),), place, device=self.model.device)
            prediction = self.predict(latents, places, [prompts[i] for i in some])
            noise = self.random.normal(f"refine/noise/{place}", round, some, self.shape)
            latents = self.policy.step(prediction, latents, places).draw(noise)
            way.append(latents.cpu())
        return torch.stack(way, 1)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> list[Image.Image]:
        """Clean latents (n, C, h, w) as pictures."""
        with self.on_device():
            parts = latents.to(self.model.device).split(self.at_once)
            return [picture for part in parts for picture in as_pictures(self.model.decode(part))]


def as_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pictures of (n, 3, H, W) in [0, 1]."""
    values = (pixels.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(value)) for value in values]


def asked(seed: int, round: int, prompts: int, wanted: int, group: int) -> list[int]:
    """The prompt of each sample of a round: `wanted` prompts in turn through a shuffled list, `group` samples each.

    Every prompt is drawn as often as the others, whatever the number of rounds.
    """
    chosen = []
    for number in range(round * wanted, (round + 1) * wanted):
        turn, place = divmod(number, prompts)
        order = Randomness(seed).subset("refine/prompts", turn, 0, prompts, prompts)
        chosen.append(order[place])
    return [prompt for prompt in chosen for _ in range(group)]


def rewarded(
    judge: RewardModels,
    pictures: Sequence[Image.Image],
    own: Sequence[int],
    prompts: Sequence[Prompt],
    everyone: Tensor,
) -> Tensor:
    """Put the rewards of this process's samples `own` in their places of `everyone` (terms, samples), in place."""
    if own:
        everyone[:, list(own)] = judge.scores(pictures, prompts).to(everyone.device, everyone.dtype)
    return everyone
