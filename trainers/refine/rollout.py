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
class Trajectory:
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


class RolloutSampler:
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
        self.batch_size = max(1, options.rows // (2 if self.guided else 1))
        self.size = (options.side, options.side)
        self.shape = model.latent_shape(*self.size)
        with torch.no_grad():
            self.conditioning = model.encode_weighted([prompt.text for prompt in prompts]).detach()
            self.uncond = model.encode_prompts([""]).detach()

    @torch.no_grad()
    def learn_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Know these captions of pictures too, which are taken literally; their indices follow those of `prompts`."""
        more = self.model.encode_prompts([prompt.text for prompt in prompts]).detach()
        self.conditioning = Conditioning.cat([self.conditioning, more])

    def predict(self, latents: Tensor, step_indices: Tensor, prompts: Sequence[int]) -> Tensor:
        """The denoiser's prediction (n, C, h, w), guided, for latents before the steps `step_indices` (n,)."""
        conditioning = self.conditioning.take(prompts)
        if self.guided:
            conditioning = Conditioning.cat([self.uncond.repeat(len(prompts)), conditioning])
        return guided(self.model, latents, self.policy.times(step_indices), conditioning, self.guidance)

    def conditional_prediction(self, latents: Tensor, times: Tensor, prompts: Sequence[int]) -> Tensor:
        """The prediction (n, C, h, w) with the prompt alone, at timesteps (n,): what is learned of pictures."""
        return self.model.predict(latents, times, self.conditioning.take(prompts))

    @torch.no_grad()
    def draw(
        self, number: int, samples: Sequence[int], prompts: Sequence[int], strength: Callable[[int], float] = one
    ) -> Trajectory:
        """The trajectories of `samples` of a round, of which i has `prompts[i]`, with the subject at `strength(i)`."""
        found = torch.zeros(len(samples), len(self.policy) + 1, *self.shape)
        for level in dict.fromkeys(map(strength, samples)):
            rows = [row for row, i in enumerate(samples) if strength(i) == level]
            with self.changed(level - 1) if level != 1 else nullcontext():
                for start in range(0, len(rows), self.batch_size):
                    some = rows[start : start + self.batch_size]
                    found[some] = self._trajectory(number, [samples[row] for row in some], prompts)
        return Trajectory(tuple(samples), found)

    def _trajectory(self, number: int, some: Sequence[int], prompts: Sequence[int]) -> Tensor:
        """The ways (n, steps + 1, C, h, w) of few enough samples."""
        latents = self.random.normal("refine/start", number, some, self.shape)
        trajectory = [latents.cpu()]
        for step in range(len(self.policy)):
            self.progress.check()
            step_indices = torch.full((len(some),), step, device=self.model.device)
            prediction = self.predict(latents, step_indices, [prompts[i] for i in some])
            noise = self.random.normal(f"refine/noise/{step}", number, some, self.shape)
            latents = self.policy.step(prediction, latents, step_indices).draw(noise)
            trajectory.append(latents.cpu())
        return torch.stack(trajectory, 1)

    @torch.no_grad()
    def pictures(self, latents: Tensor) -> list[Image.Image]:
        """Clean latents (n, C, h, w) as pictures."""
        with self.on_device():
            parts = latents.to(self.model.device).split(self.batch_size)
            return [picture for part in parts for picture in as_pictures(self.model.decode(part))]


def as_pictures(pixels: Tensor) -> list[Image.Image]:
    """Pictures of (n, 3, H, W) in [0, 1]."""
    values = (pixels.cpu() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(np.ascontiguousarray(value)) for value in values]


def sample_prompts(seed: int, number: int, prompts: int, wanted: int, group: int) -> list[int]:
    """The prompt of each sample of a round: `wanted` prompts in turn through a shuffled list, `group` samples each.

    Every prompt is drawn as often as the others, whatever the number of rounds.
    """
    chosen = []
    for place in range(number * wanted, (number + 1) * wanted):
        turn, index = divmod(place, prompts)
        order = Randomness(seed).subset("refine/prompts", turn, 0, prompts, prompts)
        chosen.append(order[index])
    return [prompt for prompt in chosen for _ in range(group)]


def score_rollout(
    reward_models: RewardModels,
    pictures: Sequence[Image.Image],
    own: Sequence[int],
    prompts: Sequence[Prompt],
    everyone: Tensor,
) -> Tensor:
    """Put the rewards of this process's samples `own` in their places of `everyone` (terms, samples), in place."""
    if own:
        everyone[:, list(own)] = reward_models.scores(pictures, prompts).to(everyone.device, everyone.dtype)
    return everyone
