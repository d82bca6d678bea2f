"""Rewrites a prompt for a subject: its class noun becomes identifier and noun."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...core.text.words import Found, find_noun, find_word, replace_word
from ...core.values import Concept
from ..captions.nouns import names_of, same_kind
from ..captions.parse import ARTICLES

NETWORKS = re.compile(r"<(?:lora|lyco|hypernet)[^<>]*>", re.IGNORECASE)
EMBEDDINGS = re.compile(r"\(?\s*embedding:[^\s,()]+(?::[\d.]+)?\s*\)?", re.IGNORECASE)
WORDS = re.compile(r"\w+")
BREAKS = re.compile(r"\b(?:BREAK|AND)\b")


@dataclass(frozen=True)
class Rewritten:
    """`text` is the new prompt; `replaced` the word that the subject replaced, "" without one."""

    text: str
    replaced: str = ""


def rewrite(prompt: str, concept: Concept) -> Rewritten:
    """`prompt` with the subject in it.

    The class noun, another word for it, or the first word of its kind (a dog in the place of a fox) becomes the
    identifier, description and noun; later ones become the noun. A prompt without such a word gets the subject in
    front. LoRA tags and embeddings of other people's models go; a prompt that has the identifier stays.
    """
    text = _bare(prompt)
    if find_word(concept.identifier, text):
        return Rewritten(text)
    match = _place(concept.noun, text)
    if match is None:
        return Rewritten(f"a photo of {_with_article('a', concept.phrase)}, {text}" if text else concept.phrase)
    before, after = text[: match.start()], replace_word(match.group(), text[match.end() :], lambda _: concept.noun)
    return Rewritten(_article_mended(before, concept.phrase) + concept.phrase + after, match.group())


def _place(noun: str, text: str) -> Found | None:
    """Where the subject goes: at its noun, another word for it, or the first word of its kind that stands by itself.

    "cat_girl" is one word, and none of the kind of a dog.
    """
    if own := find_noun(noun, text):
        return own
    others = (match for name in names_of(noun)[1:] if (match := find_word(name, text)))
    alone = WORDS.sub(lambda match: " " if "_" in match[0] else match[0], text)
    return next(others, None) or find_word(same_kind(noun, alone), text)


def _bare(prompt: str) -> str:
    text = EMBEDDINGS.sub(" ", " ".join(NETWORKS.sub(" ", prompt).split()))
    text = BREAKS.sub(",", text)
    text = re.sub(r"\s+,", ",", " ".join(text.split()))
    return re.sub(r"(?:,\s*){2,}", ", ", text).strip(" ,")


def _with_article(article: str, phrase: str) -> str:
    return phrase if phrase.split()[0].lower() in ARTICLES else f"{article} {phrase}"


def _article_mended(before: str, phrase: str) -> str:
    """An article right before the subject fits its first letter: "an owl" -> "a sks owl"."""
    fitting = "an" if phrase[:1].lower() in "aeio" else "a"
    return re.sub(r"\b([Aa])n?(\s+)$", lambda m: (fitting if m[1] == "a" else fitting.title()) + m[2], before)
