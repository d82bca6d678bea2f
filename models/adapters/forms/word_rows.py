"""Learned words as low-rank changes of the text encoders' tables of embeddings.

A word that is one token of the vocabulary is a row there, and the difference of rows is a pair like any other: `up` has
a one in the row's place, `down` holds the difference. So a LoRA file carries its word into every program that loads
LoRAs of text encoders by ComfyUI's names, and the word works in a prompt as it was learned. For this pack the words are
`Adapter.embeddings`; it neither trains, fuses nor applies the pairs a second time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ....core.values import Adapter, Factor, LowRank

TABLE = "text_model.embeddings.token_embedding"
"""the path of a text encoder's table of embeddings, in the encoder"""


def word_rows(table: Tensor, rows: Mapping[int, Tensor]) -> LowRank | None:
    """The pair that sets rows of `table` (n, D) to single vectors (1, D); None where none of them is single.

    The vectors are those that the file bundles, in float16: whoever reads either of them draws the same.
    """
    single = {index: vectors for index, vectors in rows.items() if len(vectors) == 1}
    if not single:
        return None
    index = torch.tensor(list(single))
    own = table.detach()[index.to(table.device)].to("cpu", torch.float32)
    up = torch.zeros(len(table), len(single))
    up[index, torch.arange(len(single))] = 1.0
    return LowRank(
        up, torch.cat([vectors.cpu().half().float() for vectors in single.values()]) - own, float(len(single))
    )


def without_words(adapter: Adapter) -> dict[str, Factor]:
    """The factors without those that carry the adapter's own words."""
    return {path: factor for path, factor in adapter.factors.items() if not carries(adapter, path, factor)}


def carried_words(adapter: Adapter) -> bool:
    """Whether all words of the adapter are carried by its factors, so that a LoRA file is enough to use them."""
    carrying = [factor for path, factor in adapter.factors.items() if carries(adapter, path, factor)]
    kinds = {kind for of in adapter.embeddings.values() for kind in of}
    return len(carrying) == len(kinds) and all(factor.rank == len(adapter.embeddings) for factor in carrying)


def carries(adapter: Adapter, path: str, factor: Factor) -> bool:
    """Whether a factor of the adapter carries its words, and changes nothing else."""
    if not adapter.embeddings or not path.endswith(f".{TABLE}") or not isinstance(factor, LowRank):
        return False
    up = factor.up
    return up.dim() == 2 and len(up) > up.shape[1] and bool((up.sum(0) == 1).all() and (up.count_nonzero(0) == 1).all())
