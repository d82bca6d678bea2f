"""Direct reward gradients: DRaFT-1 (Clark et al. 2023, arXiv:2309.17400).

    L = -E sum_k w_k R_k(decode(x0)) / s_k

The last sampling step, the decoder and the reward are differentiated; all earlier steps are taken as they were drawn.
s_k is the reward's standard deviation in the round. Nothing is more direct and nothing deceives a reward sooner: keep
the number of steps low and the guards on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.errors import FewShotError
from ..models.latents import decode_latents
from .refining_step import RefiningStep

DIRECT = "policy"


class DirectRewardStep(RefiningStep):
    """The step of DRaFT-1."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        stiff = [term.name for term in self.judge.terms if not hasattr(term.metric, "gradient")]
        if stiff:
            raise FewShotError(
                f"draft needs rewards that have a gradient, and {', '.join(stiff)} has none here: reward CLIP-T, "
                "PickScore or HPSv2, or choose another method"
            )
        self.weights |= {DIRECT: 1.0}

    @property
    def places_per_sample(self) -> int:
        return 1

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The loss of the samples of `rows`, through their last step."""
        assert self.round is not None
        round, last = self.round, len(self.painter.policy) - 1
        before = torch.stack([round.way.at(i)[last] for i, _ in rows]).to(self.device)
        prompts = [round.prompts[i] for i, _ in rows]
        places = torch.full((len(rows),), last, device=self.device)
        prediction = self.painter.predict(before, places, prompts)
        clean = self.painter.policy.step(prediction, before, places).mean
        with self.painter.awake():
            pixels = decode_latents(self.painter.networks, clean)
            rewards = self.judge.gradients(pixels, [self.prompts[i] for i in prompts])
        weights = torch.tensor(self.judge.weights, device=self.device)
        spread = torch.tensor(round.spreads, device=self.device)
        return self.mean({DIRECT: -(rewards * (weights / weights.sum() / spread).view(-1, 1)).sum(0)})
