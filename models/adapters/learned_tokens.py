"""Learned tokens: trained embeddings for a word in the text encoders (Textual Inversion, Gal et al. 2022).

Vectors are trained freely up to a maximum norm, or in their direction only: long vectors dominate the rest of a prompt,
so their norm stays that of ordinary words (Directional Textual Inversion, arXiv:2512.13672).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.text.words import same_word
from ...core.values import Adapter, LowRank
from .forms.word_rows import TABLE, word_rows

if TYPE_CHECKING:
    from ..contract import DiffusionModel

# Prefix of the parameters' names.
GROUP = "token"
# Default bound of a freely trained vector's norm, in multiples of the vocabulary's mean norm.
MAX_NORM = 1.4
_FORBIDDEN = re.compile(r"[\s.,:;()|]")


@dataclass(frozen=True)
class TokenSpec:
    """A word to learn.

    Args:
        start: the text whose embeddings are the initial vectors.
        direction: only the vectors' directions are trained, else the vectors.
        max_norm: of vectors that are trained freely, in multiples of the vocabulary's mean norm.
    """

    word: str
    start: str
    vectors: int = 1
    direction: bool = False
    max_norm: float = MAX_NORM

    def __post_init__(self):
        if not self.word or _FORBIDDEN.search(self.word):
            raise FewShotError(
                f"'{self.word}' cannot be learned as a word: choose an identifier without spaces and . , : ; ( ) |"
            )


@dataclass(frozen=True)
class TokenConstraint:
    """The constraint on a parameter (n, width): unit rows with the prior `start`, or norms of at most `max_norm`."""

    start: Tensor | None = None
    max_norm: float | None = None


class LearnedTokens(Mapping[str, Mapping[str, Tensor]]):
    """A live mapping from words to their vectors as they are, `conditioning.Embeddings`; `parameters` by stable names.

    The names are "token.<word>.<clip_l, clip_g or clip_h>". The networks use the words until `remove`, and also the
    untrained words of the adapter that training continues from.
    """

    def __init__(self, model: DiffusionModel, specs: Sequence[TokenSpec], start_from: Adapter | None = None):
        self.parameters: dict[str, nn.Parameter] = {}
        self.rules: dict[str, TokenConstraint] = {}
        self._lengths: dict[str, Tensor] = {}
        self._names: dict[str, dict[str, str]] = {}
        given = start_from.embeddings if start_from is not None else {}
        if given and not model.text_encoders:
            raise FewShotError(
                f"the adapter to train on from teaches {', '.join(given)}, and the text encoder of {model.ref.name} is "
                "ComfyUI's and learns no words: choose one without words"
            )
        own = {spec.word: next((word for word in given if same_word(word, spec.word)), "") for spec in specs}
        self.kept = {word: of for word, of in given.items() if word not in own.values()}
        with torch.inference_mode(False), torch.no_grad():
            for spec in specs:
                self._begin(model, spec, given.get(own[spec.word]))
        self._model, self._before = model, model.learned_tokens
        model.learned_tokens = {**self._before, **self.kept} if not specs else self

    def _begin(self, model: DiffusionModel, spec: TokenSpec, given: Mapping[str, Tensor] | None) -> None:
        """Parameters of one word, from `given` vectors or from those of `spec.start`."""
        self._names[spec.word] = {}
        encoders = zip(model.text_encoders, model.tokenizers, model.family.text_encoders, strict=True)
        for encoder, tokenizer, which in encoders:
            table = encoder.get_input_embeddings().weight.float()
            first = (
                _initial(table, tokenizer, spec) if given is None else _continued(given, which.embedding, table, spec)
            )
            name = f"{GROUP}.{spec.word}.{which.embedding}"
            self._names[spec.word][which.embedding] = name
            if spec.direction:
                usual = table.norm(dim=1).mean().expand(len(first), 1)
                self._lengths[name] = usual.clone() if given is None else first.norm(dim=1, keepdim=True)
                first = nn.functional.normalize(first, dim=1)
                self.rules[name] = TokenConstraint(start=first.clone())
            else:
                self.rules[name] = TokenConstraint(max_norm=spec.max_norm * float(table.norm(dim=1).mean()))
            self.parameters[name] = nn.Parameter(first.clone())

    def __getitem__(self, word: str) -> Mapping[str, Tensor]:
        if word in self._names:
            return {kind: self._vectors(name) for kind, name in self._names[word].items()}
        return self.kept[word] if word in self.kept else self._before[word]

    def _vectors(self, name: str) -> Tensor:
        parameter = self.parameters[name]
        return parameter * self._lengths[name] if name in self._lengths else parameter

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._names, *self.kept, *self._before)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def extract(self) -> dict[str, dict[str, Tensor]]:
        """Trained and untrained words as they are now: copies on the CPU in float32."""
        own = {word: self[word] for word in (*self._names, *self.kept)}
        return {
            word: {kind: vectors.detach().to("cpu", torch.float32, copy=True) for kind, vectors in of.items()}
            for word, of in own.items()
        }

    def table_factors(self) -> dict[str, LowRank]:
        """By path of a table of embeddings, what puts the words that are one token each into it (`word_rows`)."""
        words, factors = self.extract(), {}
        if not words:
            return {}
        encoders = zip(self._model.text_encoders, self._model.tokenizers, self._model.family.text_encoders, strict=True)
        for encoder, tokenizer, which in encoders:
            ids = {word: tokenizer(word, add_special_tokens=False).input_ids for word in words}
            rows = {ids[word][0]: of[which.embedding] for word, of in words.items() if len(ids[word]) == 1}
            found = word_rows(encoder.get_input_embeddings().weight, rows)
            if found is not None:
                factors[f"{which.component}.{TABLE}"] = found
        return factors

    def hide(self) -> None:
        """Let the networks use the untrained words only."""
        self._model.learned_tokens = {**self._before, **self.kept}

    def show(self) -> None:
        """Let the networks use the trained words again."""
        self._model.learned_tokens = self if self._names else {**self._before, **self.kept}

    def remove(self) -> None:
        """Restore the words that the networks had before."""
        self._model.learned_tokens = self._before


def _initial(table: Tensor, tokenizer, spec: TokenSpec) -> Tensor:
    """Initial vectors (n, width): the start's tokens in turn, or their mean where there are more than n."""
    ids = tokenizer(spec.start, add_special_tokens=False).input_ids
    if not ids:
        raise FewShotError(f"the word '{spec.word}' is to begin as '{spec.start}', which is no word: name one")
    rows = table[torch.tensor(ids, device=table.device)]
    if len(ids) > spec.vectors:
        return rows.mean(0, keepdim=True).repeat(spec.vectors, 1)
    return rows[[i % len(ids) for i in range(spec.vectors)]]


def _continued(given: Mapping[str, Tensor], kind: str, table: Tensor, spec: TokenSpec) -> Tensor:
    vectors = given.get(kind)
    if vectors is None or vectors.shape[-1] != table.shape[1]:
        raise FewShotError(
            f"the word '{spec.word}' of the adapter to train on from has no {kind} vectors of width {table.shape[1]}: "
            "it was learned with another base model"
        )
    if len(vectors) != spec.vectors:
        raise FewShotError(
            f"the word '{spec.word}' of the adapter to train on from has {len(vectors)} vectors, and token_vectors is "
            f"{spec.vectors}: set it to {len(vectors)}"
        )
    return vectors.to(table.device, torch.float32)
