"""DiffusionNFT (Zheng et al. 2025, arXiv:2509.16117): good pictures are learned and bad ones unlearned, without any
probability of a sampling step. So they may be drawn with any noise of the sampler's steps, also with none (eta 0).

    L = E 1 / beta (r |x+ - z0|^2 / w+ + (1 - r) |x- - z0|^2 / w-) + kl_weight * E |e_theta - e_subject|^2
    r = 1/2 + clip(A, -b, b) / (2 b),    A = (R - its prompt's mean) / std
    z0 ~ the old policy with the subject's adapter at strength s in [1 - explore, 1]

on pictures of the round, noised anew at random timesteps; see `losses.nft_loss`. The old policy draws the
pictures, and follows the learned one from round to round (section 3.3): old <- d old + (1 - d) now, where d is small at
first and grows with the steps taken, see `follows`. The factor `bound` only scales the gradient, which the optimiser
undoes, and is left out.

Three things are not, or not in every reading, DiffusionNFT's:

- s is this project's own and in no paper. x, x_old and the subject's prediction are those at full strength, so what is
  learned from is off-policy. With explore 0, s is 1.
- The pictures are drawn with guidance, and the prediction without it is learned. The authors draw and learn with a
  guidance of 1 (their config/nft.py), so that both are the same. Average pictures (r = 1/2) teach nothing either way.
- By the paper's text r reaches 0 and 1 at one standard deviation (b = 1, the default of `advantage_clip`); the released
  code takes b = 5, and its std also holds how prompts differ from each other, where std here is that of the deviations
  from the prompts' means. Which is better is undecided: they were not measured against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...loop import Share
from ..advantages import PromptStatistics, pooled_advantages
from ..losses import nft_loss, optimality
from ..step import Rollout
from .renoise import NoisedStep
from .table import NFT

NFT_TERM, KL = "policy", "kl"
OLD = "old/"


def follows(steps: int) -> float:
    """The share d of the old policy that stays after `steps` steps: min(steps / 1000, 1/2), the paper's default."""
    return min(0.001 * steps, 0.5)


class NegativeAwareStep(NoisedStep):
    """The step of DiffusionNFT."""

    methods = (NFT,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights |= {NFT_TERM: 1.0}
        if self.settings.resolved_kl_weight > 0:
            self.weights[KL] = self.settings.resolved_kl_weight
        self.before: dict[tuple[int, int], Tensor] = {}
        self.old: dict[str, Tensor] = {}  # the weights that drew the last round

    def begin(self, number: int, update: int, share: Share) -> Rollout:
        """As of every method; the next round's old policy starts from what drew this one."""
        rollout = super().begin(number, update, share)
        self.old = {name: self.begun_with[f"weights/{name}"].to(self.device) for name in self.injected.parameters}
        return rollout

    def drawing(self, number: int) -> dict[str, Tensor]:
        """The old policy's weights: the last round's, which follow those of now."""
        now, stays = super().drawing(number), follows(number * self.settings.updates)
        return {name: stays * self.old[name] + (1 - stays) * w for name, w in now.items()} if self.old else now

    def _statistics(self) -> dict[str, Tensor]:
        return super()._statistics() | {OLD + name: weight for name, weight in self.old.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        super().load(state)
        self.old = {n.removeprefix(OLD): w.to(self.device) for n, w in state.items() if n.startswith(OLD)}

    def advantages(self, rewards: Tensor, prompts: Sequence[int], statistics: PromptStatistics) -> Tensor:
        """Over the other pictures of the prompt, in deviations of the whole round."""
        return pooled_advantages(rewards, prompts)

    @torch.no_grad()
    def cache_old_policy(self, rollout: Rollout, share: Share) -> None:
        """What the policy that drew the round says of its noised pictures, on the host."""
        self.before = {}
        for update in range(self.settings.updates):
            rows = [(i, n) for i in share(self.part(update)) for n in self.places(rollout.number, i)]
            for start in range(0, len(rows), self.sampler.batch_size):
                self.progress.check()
                some = rows[start : start + self.sampler.batch_size]
                noised = self.noised(rollout, some)
                self.before |= dict(zip(some, self.predicted(rollout, some, noised).cpu(), strict=True))

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The loss of `rows` of (sample, number of the noising), and the distance to the subject's prediction."""
        assert self.rollout is not None
        process = self.sampler.model.process
        noised = self.noised(self.rollout, rows)
        now = self.predicted(self.rollout, rows, noised)
        old = torch.stack([self.before[row] for row in rows]).to(self.device)
        x, x_old = (process.to_clean(noised.latents, text, noised.times) for text in (now, old))
        advantage = self.rollout.advantages[[i for i, _ in rows]].to(self.device)
        good = optimality(advantage, self.settings.resolved_advantage_clip)
        found = {NFT_TERM: nft_loss(x, x_old, noised.clean, good, self.settings.nft_beta)}
        if KL in self.weights:
            with torch.no_grad(), self.injected.disabled():
                subject = self.predicted(self.rollout, rows, noised)
            found[KL] = (now - subject).square().flatten(1).mean(1)
        return self.mean(found)
