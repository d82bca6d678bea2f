"""Character spans of a caption that name a subject."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...core.values import Concept
from .identifiers import find_word

# Start and end in characters.
Span = tuple[int, int]


def subject_spans(caption: str, concept: Concept, others: Sequence[Concept] = ()) -> list[Span]:
    """Where `caption` names the concept: its identifier, and the description and noun that belong to it.

    "a sks striped cat beside a zwx cat" gives "sks", "striped" and the first "cat" for sks: the nearest description
    and noun that follow before one of `others` is named. Empty without the identifier.
    """
    foreign = sorted(span[0] for other in others for span in _all(other.identifier, caption))
    spans: list[Span] = []
    for start, end in _all(concept.identifier, caption):
        spans.append((start, end))
        limit = next((position for position in foreign if position >= end), len(caption))
        for words in (concept.description, concept.noun):
            match = find_word(words, caption[end:limit])
            if match:
                spans.append((end + match.start(), end + match.end()))
    return sorted(set(spans))


def _all(word: str, text: str) -> list[Span]:
    if not word:
        return []
    return [match.span() for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE)]
