"""Preference pairs: of two pictures of a prompt the better one is made more probable (Wallace et al. 2023,
Diffusion-DPO; of a subject's pictures Miao et al. 2024, RPO).

    L = E -log sigmoid(-beta / 2 ((e_w - e_w,subject) - (e_l - e_l,subject)))

with the errors of the denoiser on both at the same timestep and noise. The reference is the denoiser with the subject's
adapter on and only the refining one off. A group's best picture is paired with its worst, the second with the last but
one, and so on; pairs that earned the same are left out. One round with many updates is the offline form: its pairs are
gone through several times, noised anew each time.

The pictures are drawn with guidance and the prediction without it is learned, as in Diffusion-DPO, whose pictures
others drew. They may be drawn with the subject's adapter at lower strengths (`explore`), which is this project's own.

In RPO's form each drawn picture whose prompt names the subject is paired with one of the subject's own pictures under
that one's caption. The reward says which of the two is the better one, where RPO draws it with that probability.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ....core.values import Prompt
from ....evaluation.reward import names_subject
from ...loop import Share
from ...losses import squared_error
from ..losses import preference_loss
from ..step import Rollout
from .renoise import Noised, NoisedStep
from .table import PAIRS

log = logging.getLogger(__name__)
PREFERENCE, AGREED = "policy", "agreed"


def paired(advantages: Sequence[float], prompts: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) samples of each prompt: best with worst inwards, those that earned the same left out."""
    pairs = []
    for prompt in dict.fromkeys(prompts):
        own = sorted((i for i, of in enumerate(prompts) if of == prompt), key=lambda i: -advantages[i])
        both = zip(own[: len(own) // 2], own[::-1], strict=False)
        pairs += [(better, worse) for better, worse in both if advantages[better] > advantages[worse]]
    return pairs


def paired_with(own: Tensor, others: Tensor, spreads: Sequence[float], weights: Sequence[float]) -> list[float]:
    """How much more each picture earned than the one it is paired with (n,), in the rewards' standard deviations.

    Args:
        own, others: rewards (terms, n); a term that is NaN for one of the two does not count.
        spreads: a term whose spread is 0 does not count either.
    """
    shares = torch.tensor([w / s if s > 0 else 0.0 for w, s in zip(weights, spreads, strict=True)], dtype=own.dtype)
    return ((own - others).nan_to_num(0.0) * shares.view(-1, 1)).sum(0).tolist()


class PairsStep(NoisedStep):
    """The step of Diffusion-DPO. Its items are numbers of pairs, and go on with each further pass over them."""

    methods = (PAIRS,)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights |= {PREFERENCE: 1.0, AGREED: 0.0}  # the share of pairs that the policy orders rightly is noted
        self.pairs: list[tuple[int, int]] = []
        self.pictures = torch.empty(0)
        self.update_rows = 1
        self.conditioning: list[int] = []  # the prompt of each picture
        self.references = torch.empty(0, *self.sampler.shape)
        self.reference_rewards = torch.empty(len(self.reward_models.terms), 0)

    def take_references(self, latents: Tensor, prompts: Sequence[Prompt]) -> None:
        """Pair with these latents (m, C, h, w) of pictures with these prompts."""
        self.sampler.learn_prompts(prompts)
        self.references = latents.cpu()
        self.reference_rewards = self.reward_models.scores(self.sampler.pictures(latents), prompts)

    def cache_old_policy(self, rollout: Rollout, share: Share) -> None:
        """All processes' pictures, since the two of a pair may have been drawn apart."""
        self.pairs = paired(rollout.advantages.tolist(), rollout.prompts)
        everyone = torch.zeros(len(rollout.prompts), *self.sampler.shape, device=self.device)
        if rollout.trajectory.samples:
            everyone[list(rollout.trajectory.samples)] = rollout.trajectory.latents[:, -1].to(self.device)
        self.processes.all_reduce(everyone)
        self.pictures, self.conditioning = everyone.cpu(), list(rollout.prompts)
        if len(self.references):
            self.pairs = self._with_references(rollout)
            self.pictures = torch.cat([self.pictures, self.references])
            self.conditioning += range(len(self.prompts), len(self.prompts) + len(self.references))

    def _with_references(self, rollout: Rollout) -> list[tuple[int, int]]:
        """(better, worse) of each drawn picture of the subject and one of its references, these in turn."""
        drawn = [i for i, prompt in enumerate(rollout.prompts) if names_subject(self.prompts[prompt])]
        own = [place % len(self.references) for place in range(len(drawn))]
        over = paired_with(
            rollout.rewards[:, drawn],
            self.reference_rewards[:, own],
            rollout.spreads,
            self.reward_models.weights,
        )
        both = [(i, len(rollout.prompts) + look) for i, look in zip(drawn, own, strict=True)]
        return [pair if more > 0 else (pair[1], pair[0]) for pair, more in zip(both, over, strict=True)]

    def items(self, rollout: Rollout, update: int) -> list[int]:
        """Of all passes over the pairs, of which there are as many as leave no update without any."""
        updates, count = self.settings.updates, len(self.pairs)
        if not count:
            log.warning("round %d has no pair of which one earned more: nothing is learned from it", rollout.number + 1)
            return []
        passes = max(self.settings.pair_passes, -(-updates // count))
        found = list(range(count * passes))[update::updates]
        self.update_rows = len(found) * self.places_per_sample
        return found

    def places(self, number: int, sample: int) -> list[int]:
        """Numbers of noisings, others in each pass."""
        first = sample // len(self.pairs) * self.places_per_sample
        return list(range(first, first + self.places_per_sample))

    @property
    def rows_per_update(self) -> int:
        return self.update_rows

    def losses(self, rows: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The loss of `rows` of (item, number of the noising)."""
        assert self.rollout is not None
        rollout = self.rollout
        better, worse = ([self.pairs[item % len(self.pairs)][side] for item, _ in rows] for side in (0, 1))
        drawn = self.pictures[[*better, *worse]]
        noised = self.noised_as(rollout, drawn, [*rows, *rows])  # the same timestep and noise for both
        conditioning = [self.conditioning[i] for i in (*better, *worse)]
        won, lost = self._errors(conditioning, noised).chunk(2)
        with torch.no_grad(), self.injected.disabled():
            won_before, lost_before = self._errors(conditioning, noised).chunk(2)
        loss = preference_loss(won, won_before, lost, lost_before, self.settings.pair_beta)
        agreed = ((won - won_before) < (lost - lost_before)).float()
        return self.mean({PREFERENCE: loss, AGREED: agreed})

    def _errors(self, conditioning: Sequence[int], noised: Noised) -> Tensor:
        target = self.sampler.model.process.target(noised.clean, noised.noise, noised.times)
        return squared_error(self.sampler.conditional_prediction(noised.latents, noised.times, conditioning), target)
