"""Relation steering: which words a learned relation is drawn to, and which it is held away from.

Positives are prepositions that the base knows as one token; negatives are what else the captions say. The words of
ReVersion (Huang et al. 2023) serve, and padding is never among the negatives, whatever a family pads with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...augmentation.captions.leaks import RELATION_WORDS
from ...core.errors import FewShotError
from ...core.randomness import seed_of
from ...models.contract import DiffusionModel
from ...models.stable_diffusion.encoding.prompt_tokens import pieces_of
from ..losses import steering_loss
from .settings import RelationSettings

FUNCTION_WORDS = frozenset(
    "i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself "
    "it its itself they them their theirs themselves what which who whom this that these those am is are was were be "
    "been being have has had having do does did doing a an the and but if or because as until while of at by for with "
    "about against between into through during before after above below to from up down in out on off over under "
    "again further then once here there when where why how all any both each few more most other some such no nor not "
    "only own same so than too very s t can will just don should now".split()
)
"""words that say nothing of a thing, so that they are no negatives"""


@dataclass(frozen=True)
class _Vocabulary:
    """Of one text encoder: its table, the ids of known prepositions, and each caption's ids to be held away from."""

    table: Tensor
    positives: tuple[int, ...]
    negatives: tuple[tuple[int, ...], ...]


class Steering:
    """The steering loss of the learned words, for captions that do not change."""

    def __init__(
        self,
        model: DiffusionModel,
        word: str,
        captions: Sequence[str],
        chosen: RelationSettings,
        prepositions: Iterable[str] = RELATION_WORDS,
    ):
        self.word, self.count, self.temperature = word, chosen.steering_positives, chosen.steering_temperature
        self.of: dict[str, _Vocabulary] = {}
        encoders = zip(model.text_encoders, model.tokenizers, model.family.text_encoders, strict=True)
        for encoder, tokenizer, which in encoders:
            positives = known_ids(tokenizer, prepositions)
            if not positives:
                raise FewShotError(
                    f"{model.ref.name} knows no preposition as one token, so nothing can be steered to: set "
                    "steering_weight to 0"
                )
            left_out = {*positives, *known_ids(tokenizer, FUNCTION_WORDS), *tokenizer.all_special_ids}
            rows = tuple(held_away(tokenizer, caption, word, left_out) for caption in captions)
            table = encoder.get_input_embeddings().weight.detach()
            self.of[which.embedding] = _Vocabulary(table, positives, rows)

    def loss(self, vectors: Mapping[str, Tensor], seed: int, step: int, indices: Sequence[int]) -> Tensor:
        """The mean over the word's vectors, summed over the text encoders: a scalar.

        Args:
            vectors: the word's (n, D), by text encoder.
            indices: the captions of the whole batch; each draws its own prepositions, and all are pooled.
        """
        total = torch.zeros((), device=next(iter(vectors.values())).device)
        for kind, own in vectors.items():
            known = self.of[kind]
            positive = [i for n in range(len(indices)) for i in _some(known.positives, self.count, seed, step, n)]
            negative = [i for pick in indices for i in known.negatives[pick]]
            near, far = known.table[positive], known.table[negative]
            total = total + torch.stack([steering_loss(v, near, far, self.temperature) for v in own]).mean()
        return total


def known_ids(tokenizer: Any, words: Iterable[str]) -> tuple[int, ...]:
    """The ids of those `words` that are one token, in the words' alphabetic order."""
    rows = (tokenizer(word, add_special_tokens=False).input_ids for word in sorted(words))
    return tuple(dict.fromkeys(row[0] for row in rows if len(row) == 1 and row[0] not in tokenizer.all_special_ids))


def held_away(tokenizer: Any, caption: str, word: str, left_out: set[int]) -> tuple[int, ...]:
    """The ids of a caption's tokens without the learned word and what is in `left_out`."""
    texts = [text for text, _ in pieces_of(caption, (word,)) if text.strip()]
    ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids]
    return tuple(i for i in ids if i not in left_out)


def _some(ids: Sequence[int], count: int, seed: int, step: int, sample: int) -> list[int]:
    """`count` of `ids` without repetition, a function of (seed, step, sample); all where they are fewer."""
    return sorted(ids, key=lambda i: seed_of(seed, "steering", step, sample, i))[:count]
