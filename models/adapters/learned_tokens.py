"""Words that are learned: vectors in place of a word's own in the text encoders' tables (Gal et al. 2022).

A word's vectors move freely, or only in their direction: long vectors drown what stands beside them in a prompt, so
their length stays that of ordinary words (Directional Textual Inversion, arXiv:2512.13672).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.values import Adapter

if TYPE_CHECKING:
    from ..contract import Networks

GROUP = "token"
"""what the names of the vectors' parameters begin with"""
MAX_NORM = 1.4
"""how many times the vocabulary's mean length a freely learned vector may reach, unless more is asked for"""
_STRANGE = re.compile(r"[\s.,:;()|]")


@dataclass(frozen=True)
class TokenSpec:
    """A word to learn: how many `vectors` it has, whose vectors it begins with, and what of them is learned.

    One that is learned freely becomes at most `max_norm` times as long as the vocabulary's words are.
    """

    word: str
    start: str
    vectors: int = 1
    direction: bool = False
    max_norm: float = MAX_NORM

    def __post_init__(self):
        if not self.word or _STRANGE.search(self.word):
            raise FewShotError(
                f"'{self.word}' cannot be learned as a word: choose an identifier without spaces and . , : ; ( ) |"
            )


@dataclass(frozen=True)
class TokenConstraint:
    """What holds for a word's parameter (n, width): unit rows that begin at `start`, or rows of at most `max_norm`."""

    start: Tensor | None = None
    max_norm: float | None = None


class LearnedTokens(Mapping[str, Mapping[str, Tensor]]):
    """Words as `prompts.Embeddings`, always as they are now; `parameters` are what is trained of them, by stable names.

    The names are "token.<word>.<clip_l, clip_g or clip_h>". The networks know the words from the start until `remove`;
    those of the adapter that training starts from, and are not trained, stay known.
    """

    def __init__(self, networks: Networks, specs: Sequence[TokenSpec], start_from: Adapter | None = None):
        self.parameters: dict[str, nn.Parameter] = {}
        self.rules: dict[str, TokenConstraint] = {}
        self._lengths: dict[str, Tensor] = {}
        self._names: dict[str, dict[str, str]] = {}
        given = start_from.embeddings if start_from is not None else {}
        self.kept = {word: of for word, of in given.items() if word not in {spec.word for spec in specs}}
        with torch.inference_mode(False), torch.no_grad():
            for spec in specs:
                self._begin(networks, spec, given.get(spec.word))
        self._networks, self._before = networks, networks.words
        networks.words = {**self._before, **self.kept} if not specs else self

    def _begin(self, networks: Networks, spec: TokenSpec, given: Mapping[str, Tensor] | None) -> None:
        """Parameters of one word, from what is given or from the vectors of `spec.start`."""
        self._names[spec.word] = {}
        encoders = zip(networks.text_encoders, networks.tokenizers, networks.family.text_encoders, strict=True)
        for encoder, tokenizer, which in encoders:
            table = encoder.get_input_embeddings().weight.float()
            first = _first(table, tokenizer, spec) if given is None else _given(given, which.embedding, table, spec)
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
        """The words as they are now, and those that were kept: copies on the CPU in float32."""
        own = {word: self[word] for word in (*self._names, *self.kept)}
        return {
            word: {kind: vectors.detach().to("cpu", torch.float32, copy=True) for kind, vectors in of.items()}
            for word, of in own.items()
        }

    def hide(self) -> None:
        """The networks know only what they knew before and what is kept."""
        self._networks.words = {**self._before, **self.kept}

    def show(self) -> None:
        """The networks know the words again."""
        self._networks.words = self if self._names else {**self._before, **self.kept}

    def remove(self) -> None:
        """The networks know the words that they knew before."""
        self._networks.words = self._before


def _first(table: Tensor, tokenizer, spec: TokenSpec) -> Tensor:
    """First vectors (n, width): those of the start's tokens in turn, or their mean where they are more than n."""
    ids = tokenizer(spec.start, add_special_tokens=False).input_ids
    if not ids:
        raise FewShotError(f"the word '{spec.word}' is to begin as '{spec.start}', which is no word: name one")
    rows = table[torch.tensor(ids, device=table.device)]
    if len(ids) > spec.vectors:
        return rows.mean(0, keepdim=True).repeat(spec.vectors, 1)
    return rows[[i % len(ids) for i in range(spec.vectors)]]


def _given(given: Mapping[str, Tensor], kind: str, table: Tensor, spec: TokenSpec) -> Tensor:
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
