"""Prompts as text: their article, and the same without a concept's identifier."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..values import Concept, Prompt
from .words import replace_word

_NAME = "\ue000"  # stands for an identifier while the words around it are mended


def with_article(noun: str) -> str:
    """ "a cat", "an owl"; plurals ("sunglasses") and nouns that bring their own article stay as they are."""
    if re.match(r"(a|an|the|my|some) ", noun, re.IGNORECASE):
        return noun
    if noun.lower().endswith("s") and not re.search(r"(ss|us|is)$", noun, re.IGNORECASE):
        return noun
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def strip_identifiers(text: str, concepts: Sequence[Concept]) -> str:
    """`text` without the concepts' identifiers, which text encoders of metrics read as something else.

    "a photo of an sks cat" -> "a photo of a cat"; "sks, cat, grass" -> "cat, grass". The identifier of a relation is
    replaced by its description. Spaces are made single.
    """
    text = " ".join(text.split())
    for concept in concepts:
        marked = replace_word(concept.identifier, text, lambda _: _NAME)
        if marked != text:
            text = _unnamed(marked, concept.description if concept.kind == "relation" else "")
    return text


def _unnamed(text: str, words: str) -> str:
    """`text` with `words` in the place of the mark, or without it."""
    if not words:
        text = re.sub(rf"{_NAME}'s\b|{_NAME}’s\b|embedding:{_NAME}", _NAME, text)
        text = re.sub(rf"\({_NAME}(?::[-+.\d]+)?\)", _NAME, text)  # a weight of nothing else
        text = re.sub(rf"(?<=\(){_NAME} ", "", text)
        text = re.sub(rf"{_NAME}-(?=\w)", f"{_NAME} ", re.sub(rf"(?<=\w)-{_NAME}", "", text))
        text = re.sub(rf"(^|,) ?{_NAME} ?(?=,|$)", "", text).lstrip(" ,")
    pattern = rf"(?P<article>\ban? )?{_NAME}(?: {_NAME})*(?= ?(?P<next>\w?))"
    text = re.sub(pattern, lambda found: _rejoined(found, words), text, flags=re.IGNORECASE)
    return re.sub(r" +(?=[,.;:!?]|$)", "", " ".join(text.split()))


def _rejoined(found: re.Match, words: str) -> str:
    """What stands in the place of "an sks cat": an article that fits what follows it now."""
    first = (words or found["next"])[:1].lower()
    if not found["article"] or not first:
        return words
    return f"{found['article'][0]}{'n' if first in 'aeiou' else ''} {words}"


def prompt_of(text: str, concepts: Sequence[Concept]) -> Prompt:
    """The prompt whose stripped form is `strip_identifiers(text)`."""
    return Prompt(text=text, stripped=strip_identifiers(text, concepts))
