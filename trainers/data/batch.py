"""The samples of one loss term in one pass of the denoiser, and how they are taken out of their set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...models.conditioning import Conditioning


@dataclass(frozen=True)
class TermBatch:
    """The samples of one term in one pass: noisy latents (n, C, h, w) at `times` (n,), and what belongs to them.

    `indices` are the samples' places in their set; `caption_kept` says which have their caption, the others an empty
    one.
    """

    latents: torch.Tensor
    times: torch.Tensor
    target: torch.Tensor
    conditioning: Conditioning | None
    prompts: tuple[str, ...]
    sizes: torch.Tensor | None
    masks: torch.Tensor | None
    indices: tuple[int, ...] = ()
    caption_kept: tuple[bool, ...] = ()
    background_weights: torch.Tensor | None = None


def select_conditioning(
    rows: Conditioning, dropped: Conditioning | None, indices: Sequence[int], caption_kept: Sequence[bool]
) -> Conditioning:
    """The captions' rows `indices`, and the empty caption's where a caption is dropped."""
    parts = []
    for i, kept in zip(indices, caption_kept, strict=True):
        assert kept or dropped is not None
        parts.append(rows.take(slice(i, i + 1)) if kept or dropped is None else dropped)
    return Conditioning.cat(parts)
