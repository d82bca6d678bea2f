"""Direct reward gradients: DRaFT-1 (Clark et al. 2023, arXiv:2309.17400).

    L = -E sum_k w_k R_k(decode(x0)) / s_k

The last sampling step, the decoder and the reward are differentiated; all earlier steps are taken as they were drawn.
s_k is the reward's standard deviation in the round; a reward that is the same for all its pictures is left out. Nothing
is more direct and nothing deceives a reward sooner: keep the number of steps low and the guards on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ....core.values import Prompt
from ..step import RefiningStep
from .table import DRAFT

DIRECT = "policy"


class DirectRewardStep(RefiningStep):
    """The step of DRaFT-1."""

    methods = (DRAFT,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        stiff = [term.name for term in self.reward_models.terms if not hasattr(term.metric, "gradient")]
        if stiff:
            raise FewShotError(
                f"draft needs rewards that have a gradient, and {', '.join(stiff)} has none here: leave it out, or "
                "choose another method"
            )
        self.weights |= {DIRECT: 1.0}

    @property
    def places_per_sample(self) -> int:
        return 1

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The loss of the samples of `rows`, through their last step."""
        assert self.rollout is not None
        rollout, last = self.rollout, len(self.sampler.policy) - 1
        before = torch.stack([rollout.trajectory.at(i)[last] for i, _ in rows]).to(self.device)
        prompts = [rollout.prompts[i] for i, _ in rows]
        places = torch.full((len(rows),), last, device=self.device)
        prediction = self.sampler.predict(before, places, prompts)
        clean = self.sampler.policy.step(prediction, before, places).mean
        loss, slope = self._rewarded(clean.detach(), prompts)
        return self.mean({DIRECT: loss + ((clean - clean.detach()) * slope).flatten(1).sum(1)})

    def _rewarded(self, clean: Tensor, prompts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The loss (n,) of clean latents and its gradient in them, so that nothing of decoder and rewards is needed
        when the denoiser is differentiated: they may wait on the host by then."""
        assert self.rollout is not None
        spread = torch.tensor(self.rollout.spreads, device=self.device).view(-1, 1)
        weights = torch.tensor(self.reward_models.weights, device=self.device).view(-1, 1)
        shares = torch.where(spread > 0, weights / weights.sum() / spread.clamp(min=1e-12), 0.0)
        with self.sampler.on_device(), self.reward_models.on_device(), torch.enable_grad():
            latents = clean.requires_grad_(True)
            rewards = self.reward_models.gradients(self.sampler.model.decode(latents), self._asked(prompts))
            counted = torch.where(rewards.isnan(), 0.0, rewards) * shares
            loss = 0.0 * latents.flatten(1).sum(1) - counted.sum(0)  # of the latents, whichever rewards apply
            (slope,) = torch.autograd.grad(loss.sum(), latents)
        return loss.detach(), slope

    def _asked(self, prompts: Sequence[int]) -> list[Prompt]:
        return [self.prompts[i] for i in prompts]
