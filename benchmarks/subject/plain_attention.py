"""The plain reading of the attention loss, measured beside the one that Train Subject has.

Attention is read as it is, among all tokens of the window, and divided by its maximum; inside and outside of the mask
count by their areas, and all timesteps alike. The authors of the loss leave normalisation and balance open.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ...models.attention import RecordedAttention, shares_on_grid
from ...trainers.data.batch import TermBatch
from ...trainers.losses import SURE
from ...trainers.subject.attention_supervision import Supervision
from ...trainers.subject.method import SubjectStep, SubjectTraining


def among_all_tokens(supervision: Supervision, token_limit: int) -> Supervision:
    """The same words and masks, with the attention shared among all tokens of the window."""
    member = supervision.member
    images, subjects, _ = member.shape
    everywhere = torch.arange(token_limit, device=member.device).expand(images, -1)
    places = supervision.wanted[:, None].expand(-1, subjects, -1)
    spread = member.new_zeros(images, subjects, token_limit).scatter(-1, places, member)
    return replace(supervision, wanted=everywhere, known=torch.ones_like(everywhere, dtype=torch.bool), member=spread)


def local_loss_of_maxima(shares: torch.Tensor, masks: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (B,) of attention divided by its maximum, mean over places.

    Arguments are those of `losses.local_loss`, with shares of the attention to all tokens. The maximum is taken for
    each sample and subject, and is a constant.
    """
    shares, masks, valid = shares.float(), masks.float(), valid.float()
    scaled = shares / shares.amax((-2, -1), keepdim=True).detach().clamp(min=1e-12) * (1 - 2 * SURE) + SURE
    each = -(masks * scaled.log() + (1 - masks) * (1 - scaled).log()).mean((-2, -1))
    return (each * valid).sum(1) / valid.sum(1).clamp(min=1)


class PlainAttentionStep(SubjectStep):
    """The step with this loss."""

    def local_errors(self, batch: TermBatch, kept: RecordedAttention) -> torch.Tensor:
        assert self.supervision is not None
        supervision = among_all_tokens(self.supervision, self.model.token_limit)
        rows = supervision.take(batch.indices, batch.caption_kept)
        size = (batch.latents.shape[-2], batch.latents.shape[-1])
        shares = shares_on_grid(kept, slice(len(batch.times)), size, rows.wanted, rows.known, rows.member)
        return local_loss_of_maxima(shares, rows.masks, rows.valid)


class PlainAttentionTraining(SubjectTraining):
    name = "subject_plain_attention"
    step = PlainAttentionStep
