"""Captions of few-shot pictures: inserting the subject's words."""

from __future__ import annotations

import re

from ...core.text.words import find_word, find_words, replace_word, spelled
from ...core.values import Concept


def default_caption(concept: Concept) -> str:
    """The template of DreamBooth (Ruiz et al. 2023): "a photo of sks cat"."""
    return f"a photo of {concept.phrase}"


def with_subject(caption: str, concept: Concept) -> str:
    """`caption` with the concept's identifier in it.

    An empty caption becomes `default_caption`. A caption with the identifier, in any case, stays as it is, but for
    full-width letters, which text encoders take for others, and for the description: it goes between identifier and
    noun where it is missing there ("a sks cat" -> "a sks striped cat": rare subjects are learned better when described:
    Chae et al. 2023, InstructBooth). Else the identifier goes before the description and noun ("a striped cat" ->
    "a sks striped cat"), or with the description before the noun alone ("a cat" -> "a sks striped cat"). Where the noun
    is not there either (tags), the whole phrase goes in front: "sks striped cat, outdoors, grass".
    """
    caption = " ".join(caption.split())
    if not caption:
        return default_caption(concept)
    if find_word(concept.identifier, caption):
        return _described(spelled(concept.identifier, caption), concept)
    described = " ".join(part for part in (concept.description, concept.noun) if part)
    for words in (described, concept.noun):
        match = find_word(words, caption)
        if match:
            kept = match.group() if words == described else f"{concept.description} {match.group()}".strip()
            before = re.sub(r"\b([Aa])n $", r"\1 ", caption[: match.start()])
            return f"{before}{concept.identifier} {kept}{caption[match.end() :]}"
    return f"{concept.phrase}, {caption}"


def _described(caption: str, concept: Concept) -> str:
    """`caption`, which holds the identifier, with the description before the noun where it is nowhere."""
    if not concept.description or find_word(concept.description, caption):
        return caption
    pair = f"{concept.identifier} {concept.noun}"
    return replace_word(pair, caption, lambda found: _between(found.group(), concept))


def _between(pair: str, concept: Concept) -> str:
    """The description between the identifier and the noun of `pair`."""
    noun = find_words(concept.noun, pair)[-1].start()
    return f"{pair[:noun].rstrip()} {concept.description} {pair[noun:]}"
