"""Prompts as ComfyUI reads them when it draws: weights, escapes, embeddings' files, and any length.

A prompt is cut into pieces of one weight, and these into windows of the text encoder's length, whose states stand side
by side. A token's state is drawn away from, or towards, that of the empty prompt at its place by its weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....core.text.embeddings import EmbeddingName, embedding_parts
from ....core.text.weights import weighted
from ....core.text.words import same_word
from ...conditioning import Conditioning, Embeddings
from ..variants import TextEncoder
from .embedding_files import embedding_vectors
from .prompt_tokens import Row, pieces_of, tokens_of
from .prompts import PROMPTS_AT_ONCE, encode_prompts, encode_rows, fits_in_window, known_words

if TYPE_CHECKING:
    from ..networks import Networks

log = logging.getLogger(__name__)

LONG_GROUP = 8  # tokens; a shorter piece is not cut where a window ends, but goes into the next one
Token = int | Tensor
"""the id of a token, or a vector (width) in its place"""


def encode_weighted(model: Networks, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
    """The conditioning of prompts to be drawn, one row each; see `contract.DiffusionModel.encode_weighted`.

    One that is literal and fits in the window has the row that `encode_prompts` gives it, bit for bit.
    """
    literal = [i for i, prompt in enumerate(prompts) if _is_literal(model, prompt, embeddings)]
    if len(literal) == len(prompts) or isinstance(prompts, str):
        return encode_prompts(model, prompts, embeddings)
    parts = [encode_prompts(model, [prompts[i] for i in literal], embeddings)] if literal else []
    others = [i for i in range(len(prompts)) if i not in set(literal)]
    parts += [_encode_one(model, prompts[i], known_words(model, embeddings)) for i in others]
    order = [*literal, *others]
    return Conditioning.cat(parts).take([order.index(i) for i in range(len(prompts))])


def _is_literal(model: Networks, prompt: str, embeddings: Embeddings | None) -> bool:
    if weighted(prompt) not in ([(prompt, 1.0)], []):
        return False
    words = known_words(model, embeddings)
    named = [part for part in embedding_parts(prompt) if isinstance(part, EmbeddingName)]
    return all(_learned(part.name, words) for part in named) and fits_in_window(model, prompt, words)


def _learned(name: str, words: Embeddings) -> str | None:
    """The learned word that `name` is, in any case."""
    return next((word for word in words if same_word(word, name)), None)


# ------------------------------------------------------------------------------------------------------- windows


@dataclass
class _Window:
    """The tokens of one window and their weights, those that begin and end it and fill it up among them."""

    tokens: list[Token] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)

    def add(self, tokens: Sequence[Token], weight: float = 1.0) -> None:
        self.tokens += tokens
        self.weights += [weight] * len(tokens)


def _windows(tokenizer: Any, length: int, groups: Sequence[tuple[list[Token], float]]) -> list[_Window]:
    """Groups of tokens of one weight each in windows of `length` tokens."""
    begin, end, pad = [tokenizer.bos_token_id], [tokenizer.eos_token_id], [tokenizer.pad_token_id]
    windows = [_Window()]
    windows[0].add(begin)
    for group, weight in groups:
        long, left = len(group) >= LONG_GROUP, group
        while left:
            window, room = windows[-1], length - 1 - len(windows[-1].tokens)
            if len(left) <= room:
                window.add(left, weight)
                break
            if long:
                window.add(left[:room], weight)
                left = left[room:]
            window.add(end)
            window.add(pad * (length - len(window.tokens)))
            windows.append(_Window())
            windows[-1].add(begin)
    windows[-1].add(end)
    windows[-1].add(pad * (length - len(windows[-1].tokens)))
    return windows


def _groups(
    model: Networks, tokenizer: Any, which: TextEncoder, prompt: str, words: Embeddings
) -> Iterator[tuple[list[Token], float]]:
    """The prompt's tokens, in groups that stay together, with their weights."""
    width = model.text_encoders[model.family.text_encoders.index(which)].config.hidden_size
    for text, weight in weighted(prompt):
        for part in embedding_parts(text):
            if isinstance(part, EmbeddingName):
                vectors, part = _vectors(model, part, which, width, words)
                yield list(vectors), weight
            for piece, word in pieces_of(part, words):
                yield list(tokens_of(tokenizer, piece)), weight
                if word:
                    yield list(words[word][which.embedding]), weight


def _vectors(
    model: Networks, name: EmbeddingName, which: TextEncoder, width: int, words: Embeddings
) -> tuple[Sequence[Tensor], str]:
    """The vectors that a name stands for, none where nothing is called so, and the words behind it."""
    if word := _learned(name.name, words):
        return words[word][which.embedding].unbind(), name.rest
    path, rest = name.find(model.embedding_folders)
    if path is None:
        log.warning("embedding:%s does not exist and is left out", name.name)
        return (), rest
    return embedding_vectors(path, which.embedding, width).unbind(), rest


# ------------------------------------------------------------------------------------------------------ encoding


def _encode_one(model: Networks, prompt: str, words: Embeddings) -> Conditioning:
    hidden, pooled = [], None
    encoders = zip(model.text_encoders, model.tokenizers, model.family.text_encoders, strict=True)
    for encoder, tokenizer, which in encoders:
        length = encoder.config.max_position_embeddings
        windows = _windows(tokenizer, length, list(_groups(model, tokenizer, which, prompt, words)))
        states, projected = _states(model, encoder, tokenizer, windows)
        hidden.append(states)
        pooled = projected[:1] if which.projected and projected is not None else pooled
    shortest = min(states.shape[1] for states in hidden)
    states = torch.cat([states[:, :shortest] for states in hidden], dim=-1)
    return Conditioning.of(hidden=states) if pooled is None else Conditioning.of(hidden=states, pooled=pooled)


def _states(model: Networks, encoder: Any, tokenizer: Any, windows: Sequence[_Window]) -> tuple[Tensor, Tensor | None]:
    """The weighted states (1, L, D) of all windows in a row, and the pooled ones (n, P)."""
    empty = _windows(tokenizer, len(windows[0].tokens), [])
    parts = [
        encode_rows(model, encoder, *_rows(tokenizer, some, model.device))
        for start in range(0, len(windows) + 1, PROMPTS_AT_ONCE)
        if (some := [*empty, *windows][start : start + PROMPTS_AT_ONCE])
    ]
    states = torch.cat([part[0] for part in parts])
    pooled = None if parts[0][1] is None else torch.cat([p for _, p in parts if p is not None])[1:]
    weights = torch.tensor([window.weights for window in windows], device=states.device)[..., None]
    nothing, own = states[:1].float(), states[1:].float()
    own = torch.where(weights == 1.0, own, (own - nothing) * weights + nothing)
    return own.to(states.dtype).flatten(0, 1)[None], pooled


def _rows(tokenizer: Any, windows: Sequence[_Window], device: torch.device) -> tuple[list[Row], dict[str, Tensor]]:
    """The windows as rows of ids, and the vectors that stand in places of ids by names of their own."""
    rows: list[Row] = []
    vectors: dict[str, Tensor] = {}
    for number, window in enumerate(windows):
        places = [i for i, token in enumerate(window.tokens) if isinstance(token, Tensor)]
        names = [f"{number}/{place}" for place in places]
        vectors |= {name: window.tokens[place][None] for name, place in zip(names, places, strict=True)}  # type: ignore[index]
        ids = [tokenizer.bos_token_id if isinstance(token, Tensor) else token for token in window.tokens]
        there = [torch.tensor(numbers, dtype=torch.long, device=device) for numbers in (ids, places)]
        rows.append(Row(there[0], there[1], tuple((name, 1) for name in names)))
    return rows, vectors
