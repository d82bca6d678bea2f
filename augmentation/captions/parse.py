"""The parts of a caption: of a relation "a black cat <R> a wooden chair, indoors" two nouns, two phrases, a context."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass

from ...core.errors import FewShotError
from .leaks import AUXILIARIES, PREPOSITIONS, ROUND, THINGS_TOO, doing

ARTICLES = frozenset("a an the one this that these those some its his her their my your our another each every".split())
ATTRIBUTES = frozenset(("with", "without", "of"))
"""words that may follow a noun to describe it: "a pot with green plant" """
EMPTY_PLACES = ("()", "{}", "<r>")
"""how captions of other tools mark the place of the relation"""
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


def marked(text: str, placeholder: str) -> str:
    """`text` with "()", "{}" and "<r>" turned into `placeholder`."""
    for empty in EMPTY_PLACES:
        if placeholder.lower() != empty:
            text = re.sub(re.escape(empty), lambda _: placeholder, text, flags=re.IGNORECASE)
    return text


def words(text: str) -> list[str]:
    """The words of `text` in lower case, without punctuation."""
    return [word.lower() for word in WORD.findall(text)]


def singular(word: str) -> str:
    """A noun without its plural ending, as far as spelling tells ("boxes" -> "box", "cats" -> "cat")."""
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def place_of(noun: str, within: list[str]) -> int | None:
    """Where the (last word of the) last occurrence of `noun` stands in the list of words; None when it does not."""
    wanted = [singular(word) for word in words(noun)]
    have = [singular(word) for word in within]
    for start in range(len(have) - len(wanted), -1, -1):
        if wanted and have[start : start + len(wanted)] == wanted:
            return start + len(wanted) - 1
    return None


def phrase_of(text: str, told: Collection[str] = ()) -> Phrase:
    """The noun of a phrase is its last word before "with", "without", "of" or another preposition; "" without a word.

    What tells a relation behind a noun is not the noun: "a cat sitting" and "cat is" have the noun "cat". `told` are
    further words that tell it.
    """
    noun = ""
    for word in words(text):
        if noun and word in PREPOSITIONS - ROUND:
            break
        if noun and (doing(word) or word in AUXILIARIES or word in told):
            continue
        noun = "" if word in ARTICLES or word in AUXILIARIES else word
    return Phrase(text.strip(), noun)


def names_nothing(noun: str) -> bool:
    """Whether what stands where a thing should is a word for a relation, as "sitting <R> chair" says."""
    return noun in PREPOSITIONS or (doing(noun) and noun not in THINGS_TOO)


def split_context(after: str) -> tuple[str, str]:
    """What stands behind the placeholder, as the second thing's phrase and the context.

    The context begins at the first comma, or where a preposition follows the thing: "a stone on the ground".
    """
    second, _, context = after.partition(",")
    named = False
    for found in WORD.finditer(second):
        word = found.group().lower()
        if named and word in PREPOSITIONS - ROUND - ATTRIBUTES:
            behind = " ".join(part for part in (second[found.start() :].strip(), context.strip()) if part)
            return second[: found.start()].strip(), behind
        named = named or not (word in ARTICLES or word in PREPOSITIONS)
    return second.strip(), context.strip()


def parts_of(caption: str, placeholder: str, told: Collection[str] = ()) -> Parts:
    """Take a relation's caption apart; `told` are words that tell the relation, so that no noun is one of them.

    Raises:
        FewShotError: the placeholder is not in it exactly once, or one of its sides names nothing.
    """
    text = marked(plain(caption), placeholder)
    if text.count(placeholder) != 1:
        raise FewShotError(
            f'the caption "{caption}" holds {placeholder} {text.count(placeholder)} times; write the two things with '
            f'it once between them, such as "cat {placeholder} chair"'
        )
    before, after = text.split(placeholder)
    second, context = split_context(after)
    parts = Parts(phrase_of(before, told), phrase_of(second, told), context)
    if not parts.first.noun or not parts.second.noun:
        raise FewShotError(
            f'the caption "{caption}" names nothing on one side of {placeholder}; write "cat {placeholder} chair"'
        )
    return parts
