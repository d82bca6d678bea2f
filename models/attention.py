"""How much of its attention each place of a picture gives to which words, whichever layers compute it.

Everything is written for (image queries, text keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..core.errors import FewShotError


class AttentionLayer(Protocol):
    """A layer in which places of the picture look at words."""

    @property
    def name(self) -> str: ...

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The layer's grid (rows, columns) for latents (height, width)."""
        ...


class RecordedAttention(Protocol):
    """What chosen layers computed in one call of the denoiser, the layer of the finest grid first."""

    @property
    def layers(self) -> Sequence[AttentionLayer]: ...

    def of(self, layer: Any, rows: slice) -> tuple[Tensor, Tensor]:
        """Queries (b, H, N, d) and keys (b, H, L, d) of some rows of the call, as the attention uses them."""
        ...


def token_shares(queries: Tensor, keys: Tensor, wanted: Tensor, known: Tensor, member: Tensor) -> Tensor:
    """How much of the attention to the wanted tokens goes to each group of them, (B, S, N), mean over heads.

    softmax over the wanted tokens j of q_i . k_j / sqrt(d), summed over each group's members: the full softmax,
    renormalised to these tokens. Only their logits are computed, in float32.

    Args:
        queries: (B, H, N, d) of the picture's places; keys: (B, H, L, d) of the prompt's tokens.
        wanted: indices of tokens (B, K); known: (B, K) false where `wanted` is padding.
        member: (B, S, K), 1 where a wanted token belongs to a group.
    """
    with torch.autocast(queries.device.type, enabled=False):
        index = wanted[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[-1])
        chosen = keys.gather(2, index).float()
        logits = torch.einsum("bhnd,bhkd->bhnk", queries.float(), chosen) * keys.shape[-1] ** -0.5
        logits = logits.masked_fill(~known[:, None, None, :], float("-inf"))
        return torch.einsum("bhnk,bsk->bsn", logits.softmax(-1), member.float()) / queries.shape[1]


def shares_on_grid(
    kept: RecordedAttention, rows: slice, size: tuple[int, int], wanted: Tensor, known: Tensor, member: Tensor
) -> Tensor:
    """`token_shares` as maps (b, S, h, w) on the finest chosen grid, mean over the layers, float32.

    `rows` are those of the batch that the token indices belong to; `size` is the latents' (height, width).

    Raises:
        FewShotError: a layer's queries do not have its grid's size.
    """
    target = kept.layers[0].grid(*size)
    maps = []
    for layer in kept.layers:
        queries, keys = kept.of(layer, rows)
        grid = layer.grid(*size)
        if queries.shape[2] != grid[0] * grid[1]:
            raise FewShotError(f"{layer.name} has {queries.shape[2]} places for latents of {size}, not {grid}")
        shares = token_shares(queries, keys, wanted, known, member).unflatten(-1, grid)
        if grid != target:
            shares = torch.nn.functional.interpolate(shares, target, mode="bilinear", align_corners=False)
        maps.append(shares)
    return torch.stack(maps).mean(0)
