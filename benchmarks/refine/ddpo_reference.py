"""The algorithm and the settings of kvablack/ddpo-pytorch on this project's networks and rewards, in a loop of its own.

50 DDIM steps with eta 1 and guidance 5 in sampling and in training; log-probabilities are those of sampling; rewards
are compared with the last ones of their prompt, or with the epoch's where a prompt has few; samples and each sample's
timesteps are shuffled; gradients of all timesteps of two batches are one step of AdamW. One thing is in its favour: the
clip range, which is written for latents of 64 x 64 x 4, is scaled to the pocket's; and one is left out: the last
timestep, which has no density with this schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.progress import NullProgress
from ...core.values import Prompt
from ...evaluation.reward import RewardModels
from ...models.adapters.inject import Injected
from ...models.contract import DiffusionModel
from ...trainers.refine.advantages import PromptStatistics
from ...trainers.refine.losses import clip_for, importance_loss
from ...trainers.refine.rollout import RolloutOptions, RolloutSampler
from ...trainers.refine.sampler_policy import SamplerPolicy


@dataclass(frozen=True)
class DdpoSettings:
    """Those of prompt-image alignment in its config/dgx.py, of one process."""

    learning_rate: float = 3e-4
    sampling_steps: int = 50
    guidance: float = 5.0
    sample_batch: int = 8
    batches: int = 4  # an epoch
    train_batch: int = 4
    accumulation_steps: int = 2
    rank: int = 4
    weight_decay: float = 1e-4
    max_gradient_norm: float = 1.0
    clip_range: float = 1e-4
    advantage_clip: float = 5.0
    buffer: int = 32
    min_samples: int = 16

    @property
    def samples(self) -> int:
        """Pictures of an epoch."""
        return self.sample_batch * self.batches

    @property
    def evaluations(self) -> int:
        """Of the denoiser in an epoch: both branches; a forward each step to draw, forward and backward to train."""
        guided = 2 if self.guidance > 1 else 1
        return self.samples * guided * (self.sampling_steps + 3 * (self.sampling_steps - 1))


@dataclass(frozen=True)
class RewardTask:
    """The training prompts and the reward of their samples."""

    prompts: Sequence[Prompt]
    reward_models: RewardModels


@dataclass(frozen=True)
class EpochSamples:
    """An epoch's samples: latents (n, steps + 1, C, h, w) and log-probabilities (n, steps) of their sampling."""

    latents: Tensor
    log_probs: Tensor
    prompts: list[int]
    advantages: Tensor


class DdpoTrainer:
    """One process of it. `injected` holds the trained parameters; prompts are drawn at random."""

    def __init__(
        self,
        model: DiffusionModel,
        injected: Injected,
        task: RewardTask,
        settings: DdpoSettings,
        side: int,
        seed: int,
    ):
        self.settings, self.prompts, self.reward_models = settings, list(task.prompts), task.reward_models
        policy = SamplerPolicy(model.process, settings.sampling_steps, (side, side), 1.0, skip_last=0)
        options = RolloutOptions(settings.guidance, side, settings.sample_batch * 2, seed)
        self.sampler = RolloutSampler(model, task.prompts, policy, options, NullProgress())
        self.generator = torch.Generator().manual_seed(seed)
        self.statistics = PromptStatistics(len(self.prompts), settings.buffer, settings.min_samples)
        self.clip = clip_for(settings.clip_range, torch.Size(self.sampler.shape).numel())
        self.parameters = list(injected.parameters.values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def epoch(self) -> float:
        """Sample, score, train; gives the mean reward."""
        samples, reward = self._sample()
        self._train(samples)
        return reward

    @torch.no_grad()
    def _sample(self) -> tuple[EpochSamples, float]:
        batches = [self._batch() for _ in range(self.settings.batches)]
        latents, log_probs = (torch.cat([batch[index] for batch in batches]) for index in (0, 1))
        prompts = [prompt for batch in batches for prompt in batch[2]]
        pictures = self.sampler.pictures(latents[:, -1])
        rewards = self.reward_models.scores(pictures, [self.prompts[i] for i in prompts]).nanmean(0)
        bound = self.settings.advantage_clip
        advantages = self.statistics.advantages(rewards, prompts).clamp(-bound, bound)
        return EpochSamples(latents, log_probs, prompts, advantages), float(rewards.mean())

    def _batch(self) -> tuple[Tensor, Tensor, list[int]]:
        sampler, count = self.sampler, self.settings.sample_batch
        prompts = torch.randint(len(self.prompts), (count,), generator=self.generator).tolist()
        latents = torch.randn(count, *sampler.shape, generator=self.generator).to(sampler.model.device)
        trajectory, log_probs = [latents], []
        for index in range(len(sampler.policy)):
            indices = torch.full((count,), index, device=latents.device)
            step = sampler.policy.step(sampler.predict(latents, indices, prompts), latents, indices)
            latents = step.draw(torch.randn(latents.shape, generator=self.generator).to(latents.device))
            log_probs.append(step.log_prob(latents))
            trajectory.append(latents)
        return torch.stack(trajectory, 1), torch.stack(log_probs, 1), prompts

    def _train(self, samples: EpochSamples) -> None:
        settings, trainable = self.settings, torch.tensor(self.sampler.policy.trainable)
        order = torch.randperm(settings.samples, generator=self.generator)
        orders = [torch.randperm(len(trainable), generator=self.generator) for _ in range(settings.samples)]
        shuffled = torch.stack([trainable[order] for order in orders])
        for number, batch in enumerate(order.split(settings.train_batch)):
            for indices in shuffled[batch].T:
                loss = self._loss(samples, batch, indices)
                (loss / (len(trainable) * settings.accumulation_steps)).backward()
            if (number + 1) % settings.accumulation_steps == 0:
                torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def _loss(self, samples: EpochSamples, batch: Tensor, indices: Tensor) -> Tensor:
        sampler, device = self.sampler, self.sampler.model.device
        before, after = samples.latents[batch, indices], samples.latents[batch, indices + 1]
        indices = indices.to(device)
        prediction = sampler.predict(before, indices, [samples.prompts[i] for i in batch.tolist()])
        now = sampler.policy.step(prediction, before, indices).log_prob(after)
        old, advantage = samples.log_probs[batch, indices.cpu()], samples.advantages[batch].to(device)
        return importance_loss(now, old.to(device), advantage, self.clip)[0].mean()
