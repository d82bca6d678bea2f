"""DiffusionNFT (Zheng et al. 2025, arXiv:2509.16117): good pictures are learned and bad ones unlearned, without any
probability of a sampling step. So they may be drawn with any noise of the sampler's steps, also with none (eta 0).

    L = E 1 / beta (r |x+ - z0|^2 / w+ + (1 - r) |x- - z0|^2 / w-) + kl_weight * E |e_theta - e_subject|^2

on pictures of the round, noised anew at random timesteps; see `refinement_losses.nft_loss`. The old policy is the one
that drew the round. The factor `bound` only scales the gradient, which the optimiser undoes, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .loop import Share
from .noised import NoisedStep
from .refinement_losses import nft_loss, optimality
from .refining_step import Round

NFT_TERM, KL = "policy", "kl"


class NegativeAwareStep(NoisedStep):
    """The step of DiffusionNFT."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights |= {NFT_TERM: 1.0}
        if self.settings.held > 0:
            self.weights[KL] = self.settings.held
        self.before: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def look_back(self, round: Round, share: Share) -> None:
        """What the policy that drew the round says of its noised pictures, on the host."""
        self.before = {}
        for update in range(self.settings.updates):
            rows = [(i, n) for i in share(self.part(update)) for n in self.places(round.number, i)]
            for start in range(0, len(rows), self.painter.at_once):
                self.watcher.check()
                some = rows[start : start + self.painter.at_once]
                seen = self.noised(round, some)
                self.before |= dict(zip(some, self.predicted(round, some, seen).cpu(), strict=True))

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The loss of `rows` of (sample, number of the noising), and the distance to the subject's prediction."""
        assert self.round is not None
        schedule = self.painter.networks.schedule
        seen = self.noised(self.round, rows)
        now = self.predicted(self.round, rows, seen)
        old = torch.stack([self.before[row] for row in rows]).to(self.device)
        x, x_old = (schedule.to_x0(said, seen.latents, seen.times) for said in (now, old))
        advantage = self.round.advantages[[i for i, _ in rows]].to(self.device)
        good = optimality(advantage, self.settings.advantage_clip)
        found = {NFT_TERM: nft_loss(x, x_old, seen.clean, good, self.settings.nft_beta)}
        if KL in self.weights:
            with torch.no_grad(), self.injected.disabled():
                subject = self.predicted(self.round, rows, seen)
            found[KL] = (now - subject).square().flatten(1).mean(1)
        return self.mean(found)
