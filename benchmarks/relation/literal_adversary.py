"""The adversarial loss as the few-shot relation report words it, measured beside the reading that Train Relation has.

The discriminator tells latents of pictures from noisy latents less the prediction, with the losses of the usual GAN.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from ...trainers.optim.optimizers import DISCRIMINATOR
from ...trainers.relation.adversarial import ADVERSARIAL, Adversary
from ...trainers.relation.method import RelationTraining


class LiteralAdversary(Adversary):
    """z_t minus the prediction as what is generated, without noise anew and at all timesteps."""

    def losses(
        self, noisy: Tensor, times: Tensor, prediction: Tensor, real: Tensor, step: int, samples: Sequence[int]
    ) -> dict[str, Tensor]:
        fake = noisy - prediction
        levels = torch.zeros(len(real), dtype=torch.long, device=real.device)
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        judged = functional_call(self.network, weights, (fake, levels))
        of_true, of_fake = self.network(real, levels), self.network(fake.detach(), levels)
        self.watch(of_true)
        discriminator_loss = (softplus(-of_true) + softplus(of_fake)).mean(1)
        return {ADVERSARIAL: softplus(-judged).mean(1), DISCRIMINATOR: discriminator_loss}


class LiteralTraining(RelationTraining):
    name = "relation_literal_adversary"
    adversary = LiteralAdversary
