"""The parts of a caption: of a relation "a black cat <R> a wooden chair, indoors" two nouns, two phrases, a context."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from ...core.errors import FewShotError
from ...core.text.words import find_words
from .leaks import ADJECTIVE_PREPOSITIONS, AUXILIARIES, NOUN_PARTICIPLES, PREPOSITIONS, is_participle

ARTICLES = frozenset("a an the one this that these those some its his her their my your our another each every".split())
# Words that may follow a noun to describe it: "a pot with green plant".
ATTRIBUTES = frozenset(("with", "without", "of"))
# Placeholders of the relation in captions of other tools.
OTHER_PLACEHOLDERS = ("()", "{}", "<r>")
WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
QUOTES = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})


@dataclass(frozen=True)
class Phrase:
    """A noun phrase: "a pot with green plant" has the noun "pot"."""

    text: str
    noun: str


@dataclass(frozen=True)
class Parts:
    """The two things of a relation's caption, and what follows the second one; see `split_context`."""

    first: Phrase
    second: Phrase
    context: str = ""


def plain(text: str) -> str:
    """`text` on one line, in Unicode's composed form, with ASCII quotes and dashes, without quotes around it."""
    text = " ".join(unicodedata.normalize("NFKC", text).translate(QUOTES).split())
    text = text.rstrip(" .;")
    while len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        text = text[1:-1].strip(" .;")
    return text


def with_placeholder(text: str, placeholder: str) -> str:
    """`text` with "()", "{}" and "<r>" turned into `placeholder`."""
    for empty in OTHER_PLACEHOLDERS:
        if placeholder.lower() != empty:
            text = re.sub(re.escape(empty), lambda _: placeholder, text, flags=re.IGNORECASE)
    return text


def words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    return [word.lower() for word in WORD.findall(text)]


def singular(word: str) -> str:
    """A noun without its plural ending, as far as spelling allows ("boxes" -> "box", "cats" -> "cat")."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def position_of(noun: str, within: list[str]) -> int | None:
    """The index of the last word of the last occurrence of `noun` in a list of words; None without one."""
    wanted = [singular(word) for word in words(noun)]
    have = [singular(word) for word in within]
    for start in range(len(have) - len(wanted), -1, -1):
        if wanted and have[start : start + len(wanted)] == wanted:
            return start + len(wanted) - 1
    return None


def phrase_of(text: str, relation_words: Collection[str] = ()) -> Phrase:
    """The noun of a phrase is its last word before "with", "without", "of" or another preposition; "" without a word.

    Words after a noun that describe a relation are not the noun: "a cat sitting" and "cat is" have the noun "cat".
    `relation_words` are further such words.
    """
    noun = ""
    for word in words(text):
        if noun and word in PREPOSITIONS - ADJECTIVE_PREPOSITIONS:
            break
        if noun and (is_participle(word) or word in AUXILIARIES or word in relation_words):
            continue
        noun = "" if word in ARTICLES or word in AUXILIARIES else word
    return Phrase(text.strip(), noun)


def is_relation_word(noun: str) -> bool:
    """Whether a word in a noun's position describes a relation instead, as in "sitting <R> chair"."""
    return noun in PREPOSITIONS or (is_participle(noun) and noun not in NOUN_PARTICIPLES)


def split_context(after: str) -> tuple[str, str]:
    """Split the text after the placeholder into the second thing's phrase and the context.

    The context begins at the first comma, or where a preposition follows the thing: "a stone on the ground".
    """
    second, _, context = after.partition(",")
    named = False
    for match in WORD.finditer(second):
        word = match.group().lower()
        if named and word in PREPOSITIONS - ADJECTIVE_PREPOSITIONS - ATTRIBUTES:
            behind = " ".join(part for part in (second[match.start() :].strip(), context.strip()) if part)
            return second[: match.start()].strip(), behind
        named = named or not (word in ARTICLES or word in PREPOSITIONS)
    return second.strip(), context.strip()


def parts_of(caption: str, placeholder: str, relation_words: Collection[str] = ()) -> Parts:
    """Parse a relation's caption; `relation_words` describe the relation, so no noun is one of them.

    Raises:
        FewShotError: the placeholder is not in it exactly once, or one of its sides names nothing.
    """
    text = with_placeholder(plain(caption), placeholder)
    found = find_words(placeholder, text)
    if len(found) != 1:
        raise FewShotError(
            f'the caption "{caption}" holds {placeholder} {len(found)} times; write the two things with '
            f'it once between them, such as "cat {placeholder} chair"'
        )
    before, after = text[: found[0].start()], text[found[0].end() :]
    second, context = split_context(after)
    parts = Parts(phrase_of(before, relation_words), phrase_of(second, relation_words), context)
    if not parts.first.noun or not parts.second.noun:
        raise FewShotError(
            f'the caption "{caption}" names nothing on one side of {placeholder}; write "cat {placeholder} chair"'
        )
    return parts
