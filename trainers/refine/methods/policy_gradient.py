"""Policy gradients on sampling steps: DDPO (Black et al. 2023), and the group-relative form (Liu et al. 2025,
Flow-GRPO), also with the ratio clamped alone.

    L = E max(-A rho, -A clip(rho, 1 - c, 1 + c)) + kl_weight * E KL(p_theta(z_p | z_t) || p_subject(z_p | z_t))

over random sampling steps of the pictures of a round. The methods differ in A: DDPO's compares with what the prompt has
earned in earlier rounds too, GRPO's with the other pictures of its group, each in standard deviations.

The clamped form is GRPO with the loss -A clip(rho, 1 - c, 1 + c), without the maximum, and by default half of its
kl_weight. Both are taken from DPOK (Fan et al. 2023, algorithm 1) and its code, and no more of it: DPOK's advantage is
a reward of a fixed scale less a learned value function of (z_t, prompt, t), in whose place the group's mean and
standard deviation stand, and its KL is an unweighted squared distance of the guided predictions.
p_subject is the sampler with the subject's adapter on and only the refining one off, so that the KL is 0 at the start.
Memory is that of one step: each pass is differentiated by itself, and the way through the sampler is never kept as a
graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....models.process import Gaussian
from ...loop import Share
from ..advantages import PromptStatistics
from ..losses import clamped_loss, clip_for, importance_loss
from ..step import RefiningStep, Rollout
from .table import DDPO, GRPO, GRPO_CLAMPED

POLICY, KL, CLIPPED = "policy", "kl", "clipped"


class PolicyGradientStep(RefiningStep):
    """The step of DDPO and of both forms of GRPO."""

    methods = (GRPO, DDPO, GRPO_CLAMPED)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.clip = clip_for(self.settings.clip_range, torch.Size(self.sampler.shape).numel())
        self.weights |= {POLICY: 1.0, CLIPPED: 0.0}  # the share that was clipped is noted
        if self.settings.resolved_kl_weight > 0:
            self.weights[KL] = self.settings.resolved_kl_weight

    @property
    def places_per_sample(self) -> int:
        return min(self.settings.trained_steps, len(self.sampler.policy.trainable))

    def places(self, number: int, sample: int) -> list[int]:
        """Sampling steps of a sample's way: a random subset of those that have a steady density."""
        able = self.sampler.policy.trainable
        return sorted(
            able[i] for i in self.random.subset("refine/places", number, sample, len(able), self.places_per_sample)
        )

    def advantages(self, rewards: Tensor, prompts: Sequence[int], statistics: PromptStatistics) -> Tensor:
        """With DDPO over what the prompt has earned so far, else over the other pictures of its group."""
        if self.settings.method == DDPO:
            return statistics.advantages(rewards, prompts)
        return super().advantages(rewards, prompts, statistics)

    def cache_old_policy(self, rollout: Rollout, share: Share) -> None:
        """Log-probabilities under the weights that drew the round, computed as training computes them.

        Those of the first update are not needed: its own weights are the same, and its ratios are exactly 1.
        """
        for update in range(1, self.settings.updates):
            samples = share(self.part(update))
            rows = [(i, place) for i in samples for place in self.places(rollout.number, i)]
            for start in range(0, len(rows), self.sampler.batch_size):
                some = rows[start : start + self.sampler.batch_size]
                self.progress.check()
                with torch.no_grad():
                    found, outcome = self.steps_at(rollout, some)
                    rollout.old |= dict(zip(some, found.log_prob(outcome), strict=True))

    def steps_at(self, rollout: Rollout, rows: Sequence[tuple[int, int]]) -> tuple[Gaussian, Tensor]:
        """The policy's steps at rows of (sample, place) as it is now, and where they led when they were drawn."""
        ways = [(rollout.trajectory.at(i), place) for i, place in rows]
        before = torch.stack([trajectory[place] for trajectory, place in ways]).to(self.device)
        after = torch.stack([trajectory[place + 1] for trajectory, place in ways]).to(self.device)
        places = torch.tensor([place for _, place in rows], device=self.device)
        prediction = self.sampler.predict(before, places, [rollout.prompts[i] for i, _ in rows])
        return self.sampler.policy.step(prediction, before, places), after

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The clipped loss of `rows`, the share that was clipped, and the KL to the subject's policy."""
        assert self.rollout is not None
        now, outcome = self.steps_at(self.rollout, rows)
        log_prob = now.log_prob(outcome)
        known = self.rollout.old
        old = torch.stack([known.get(row, own) for row, own in zip(rows, log_prob.detach(), strict=True)])
        advantage = self.rollout.advantages[[i for i, _ in rows]].to(self.device)
        follow = clamped_loss if self.settings.method == GRPO_CLAMPED else importance_loss
        loss, clipped = follow(log_prob, old, advantage, self.clip)
        found = {POLICY: loss, CLIPPED: clipped}
        if KL in self.weights:
            with torch.no_grad(), self.injected.disabled():
                subject, _ = self.steps_at(self.rollout, rows)
            found[KL] = now.kl(subject)
        return self.mean(found)
