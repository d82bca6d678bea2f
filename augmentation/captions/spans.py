"""Character spans of a caption that name a subject."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.text.words import find_word, find_words
from ...core.values import Concept

# Start and end in characters.
Span = tuple[int, int]


def subject_spans(caption: str, concept: Concept, others: Sequence[Concept] = ()) -> list[Span]:
    """Where `caption` names the concept: its identifier, and the description and noun that belong to it.

    "a sks striped cat beside a zwx cat" gives "sks", "striped" and the first "cat" for sks: the nearest description
    and noun that follow before one of `others` is named. Empty without the identifier.
    """
    foreign = sorted(found.start() for other in others for found in find_words(other.identifier, caption))
    spans: list[Span] = []
    for start, end in (found.span() for found in find_words(concept.identifier, caption)):
        spans.append((start, end))
        limit = next((position for position in foreign if position >= end), len(caption))
        for words in (concept.description, concept.noun):
            match = find_word(words, caption[end:limit])
            if match:
                spans.append((end + match.start(), end + match.end()))
    return sorted(set(spans))
