"""How many tokens ComfyUI's text encoders read of a prompt, and which are those of its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.errors import FewShotError


def tokenizer_of(clip: Any) -> Any:
    """The tokenizer that says most of a prompt: that of the widest encoder.

    Raises:
        FewShotError: the CLIP holds none of ComfyUI's.
    """
    own = clip.tokenizer
    found = [one for one in (own, *vars(own).values()) if hasattr(one, "embedding_size") and hasattr(one, "tokenizer")]
    if not found:
        raise FewShotError(
            f"this CLIP cuts prompts by a {type(own).__name__}, which is not known here: connect the CLIP of Load CLIP"
        )
    return max(found, key=lambda one: one.embedding_size).tokenizer


def count(tokenizer: Any, text: str) -> int:
    """Tokens of a text alone, without those that begin and end a prompt."""
    return len(tokenizer(text)["input_ids"]) - len(tokenizer("")["input_ids"])


def positions(tokenizer: Any, prompt: str, spans: Sequence[tuple[int, int]], limit: int) -> tuple[int, ...]:
    """Of the tokens in spans (start, end) of whole words, counted from 1; those within the limit."""
    found: set[int] = set()
    for start, end in spans:
        first = count(tokenizer, prompt[:start].rstrip())  # a space belongs to the word behind it
        found.update(range(first + 1, count(tokenizer, prompt[:end]) + 1))
    return tuple(sorted(place for place in found if place <= limit))
