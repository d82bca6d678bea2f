"""Prompts cut into tokens, each once however often it is encoded."""

from __future__ import annotations

import logging
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....core.text.words import check_letters, find_any

EMBEDDING = "embedding:"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """A prompt's tokens, on the device of the encoder that reads them.

    ids (length,): padded to the encoder's window.
    places (n,): where learned vectors stand in place of looked-up ones.
    words: the learned words that they belong to in turn, and how many of each one's vectors fit.
    """

    ids: Tensor
    places: Tensor
    words: tuple[tuple[str, int], ...]


class Tokens:
    """The rows of all prompts so far: a training whose prompts are encoded in each step has the same few again.

    What does not fit in the window is named in the log, once a prompt, though a family may have two encoders.
    """

    def __init__(self) -> None:
        self._rows: dict[Hashable, Row] = {}
        self._told: set[str] = set()

    def row(self, tokenizer: Any, length: int, prompt: str, learned: Mapping[str, Tensor], device: torch.device) -> Row:
        """`prompt` in a window of `length` tokens; of `learned` vectors (n, width) only the numbers matter."""
        key = (tokenizer, length, prompt, tuple((word, len(of)) for word, of in learned.items()), device)
        if key not in self._rows:
            self._rows[key] = self._cut(tokenizer, length, prompt, learned, device)
        return self._rows[key]

    def _cut(
        self, tokenizer: Any, length: int, prompt: str, learned: Mapping[str, Tensor], device: torch.device
    ) -> Row:
        ids: list[int] = []
        places: list[int] = []
        words: list[tuple[str, int]] = []
        room = length - 2
        for text, word in pieces_of(prompt, learned):
            ids += tokens_of(tokenizer, text)
            if word:
                fitting = max(0, min(len(learned[word]), room - len(ids)))
                places += range(len(ids) + 1, len(ids) + 1 + fitting)
                words.append((word, fitting))
                ids += [tokenizer.bos_token_id] * len(learned[word])  # looked up and then replaced
        if len(ids) > room and prompt not in self._told:
            self._told.add(prompt)
            lost = tokenizer.decode(ids[room:])
            log.warning("the prompt '%s' is %d tokens long, %d fit; left out: '%s'", prompt, len(ids), room, lost)
        ids = [tokenizer.bos_token_id, *ids[:room], tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (length - len(ids))

        def there(numbers: list[int]) -> Tensor:
            return torch.tensor(numbers, dtype=torch.long, device=device)

        return Row(there(ids), there(places), tuple(words))


def tokens_of(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` alone, however many: that they are too many is told here, not by the tokenizer."""
    check_letters(text)
    return tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text.strip() else []


def pieces_of(prompt: str, learned: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """The prompt cut at learned words, in any case, which may be written "word" or, as in ComfyUI, "embedding:word"."""
    end = 0
    for found, word in find_any(learned, prompt):
        before = prompt[end : found.start()]
        yield (before.removesuffix(EMBEDDING) if _is_word(before) else before), word
        end = found.end()
    yield prompt[end:], None


def _is_word(before: str) -> bool:
    """Whether the "embedding:" at the end of a text is a word of its own."""
    return not before.removesuffix(EMBEDDING)[-1:].isalnum()
