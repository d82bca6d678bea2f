"""The one rule for what a word is, and where it stands in a text.

Words are compared in any case, as text encoders read them, and as people mean them: composed and decomposed letters,
full-width forms, and typographic quotes and dashes are the same. A word stands by itself where no letter, digit or
underscore goes on from it: "cat" is in "cat-like", "cat's" and "(cat:1.2)", and not in "cats" or "cat_girl". Scripts
without spaces (Chinese, Japanese, Thai) have no such ends, and neither is one between Latin letters and theirs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ..errors import FewShotError

_SAME = {
    **dict.fromkeys(map(ord, "\u2018\u2019\u201b\u02bc\u2032"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033"), '"'),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212"), "-"),
    ord("\u03c2"): "\u03c3",  # a sigma at the end of a word
    0xFE0E: None,
    0xFE0F: None,  # whether a sign is drawn as text or as a picture
}
_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7ff]")
_JOINERS = "\u200c\u200d"
_EMPTY = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # letters and marks by Unicode that show nothing
_OTHER, _LETTER, _SYLLABLE, _UNSPACED = range(4)


def check_letters(text: str) -> None:
    """Raises FewShotError for a text with half a letter (a surrogate alone): no file and no text encoder takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise FewShotError(
            f"letter {error.start + 1} of the text {text[:60]!a} is half a letter (U+{ord(half):04X}): write it anew"
        ) from None


def check_seen(text: str) -> None:
    """Raises FewShotError for a text with characters that nobody sees: two words that look the same would be two.

    Between letters of scripts that join, and in emoji, joiners (U+200C, U+200D) are seen.
    """
    check_letters(text)
    for place, letter in enumerate(text):
        beside = text[max(0, place - 1) : place], text[place + 1 : place + 2]
        if letter in _JOINERS and all(one and not one.isascii() and not one.isspace() for one in beside):
            continue
        if letter in _EMPTY or unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cn"):
            raise FewShotError(
                f"letter {place + 1} of {text[:60]!a} is one that nobody sees (U+{ord(letter):04X}), as comes with "
                "copied text: type the word anew"
            )


@dataclass(frozen=True)
class Found:
    """Where a word stands in a text; the methods are those of `re.Match`."""

    text: str
    first: int
    last: int

    def start(self) -> int:
        return self.first

    def end(self) -> int:
        return self.last

    def span(self) -> tuple[int, int]:
        return self.first, self.last

    def group(self) -> str:
        """The word as it is written there."""
        return self.text[self.first : self.last]


@dataclass(frozen=True)
class _Folded:
    """A text as it is compared, with the place in the original and the kind of each of its letters.

    `places` has the original's length at its end. Letters that come from one of the original have one place.
    """

    text: str
    places: tuple[int, ...]
    kinds: tuple[int, ...]

    def is_end(self, at: int) -> bool:
        """Whether a word may begin or end before the letter `at`."""
        if not 0 < at < len(self.text):
            return True
        before, after = self.kinds[at - 1], self.kinds[at]
        inside = self.places[at - 1] == self.places[at]
        return not inside and not (before == after and before in (_LETTER, _SYLLABLE))


@lru_cache(maxsize=4096)
def _folded(text: str) -> _Folded:
    """`text` as it is compared: decomposed, in lower case, one space between words."""
    starts = [i for i, letter in enumerate(text) if i == 0 or not unicodedata.category(letter).startswith("M")]
    folded: list[str] = []
    places: list[int] = []
    kinds: list[int] = []
    for start, end in pairwise((*starts, len(text))):
        letters = unicodedata.normalize("NFKD", text[start:end]).lower().translate(_SAME)
        if letters.isspace():
            if folded and folded[-1] == " ":
                continue
            letters = " "
        folded += letters
        places += [start] * len(letters)
        kinds += [_kind(text[start])] * len(letters)
    whole = "".join(folded)
    for run in re.finditer("(?<=[^_])_+(?=[^_])", whole):
        if kinds[run.start() - 1] and kinds[run.end()]:  # between letters it joins them
            kinds[run.start() : run.end()] = [_LETTER] * (run.end() - run.start())
    return _Folded(whole, (*places, len(text)), tuple(kinds))


def _kind(letter: str) -> int:
    if not letter.isalnum():
        return _OTHER
    if _WITHOUT_SPACES.match(letter):
        return _UNSPACED
    return _SYLLABLE if _HANGUL.match(letter) else _LETTER


# ------------------------------------------------------------------------------------------------------- finding


def find_words(word: str, text: str) -> list[Found]:
    """The places where `word`, or a phrase of several, stands in `text` by itself, in order."""
    needle, hay = _folded(word.strip()).text, _folded(text)
    found: list[Found] = []
    at = hay.text.find(needle) if needle else -1
    while at >= 0:
        end = at + len(needle)
        if hay.is_end(at) and hay.is_end(end):
            found.append(Found(text, hay.places[at], hay.places[end]))
            at = hay.text.find(needle, end)
        else:
            at = hay.text.find(needle, at + 1)
    return found


def find_word(word: str, text: str) -> Found | None:
    """The first place where `word` stands in `text` by itself, in any case; None without one."""
    return next(iter(find_words(word, text)), None)


def find_any(words: Iterable[str], text: str) -> list[tuple[Found, str]]:
    """The places of any of `words`, in order, each with its word; of words that overlap the first, then the longest.

    A word that differs from another one by case alone is found where it is written as it is given.
    """
    every = [(found, word) for word in words for found in find_words(word, text)]
    every.sort(key=lambda one: (one[0].first, -one[0].last, one[0].group() != one[1]))
    kept: list[tuple[Found, str]] = []
    for found, word in every:
        if not kept or found.first >= kept[-1][0].last:
            kept.append((found, word))
    return kept


def find_noun(noun: str, text: str) -> Found | None:
    """The first place of a noun in the singular or the plural."""
    places = [found for form in noun_forms(noun) for found in find_words(form, text)]
    return min(places, key=Found.start, default=None)


def noun_forms(noun: str) -> tuple[str, ...]:
    """A noun and its plural: "cat" and "cats", "box" and "boxes", "puppy" and "puppies"."""
    noun = noun.strip()
    if not noun:
        return ()
    if re.search(r"[^aeiou\W\d_]y$", noun, re.IGNORECASE):
        return noun, f"{noun[:-1]}ies"
    return noun, noun + ("es" if re.search(r"(s|x|z|sh|ch)$", noun, re.IGNORECASE) else "s")


def same_word(one: str, other: str) -> bool:
    """Whether two words or phrases are the same, in any case."""
    return _folded(one.strip()).text == _folded(other.strip()).text


# ----------------------------------------------------------------------------------------------------- replacing


def replace_word(word: str, text: str, change: Callable[[Found], str]) -> str:
    """`text` with what `change` makes of each place where `word` stands by itself."""
    parts, end = [], 0
    for found in find_words(word, text):
        parts += [text[end : found.first], change(found)]
        end = found.last
    return "".join((*parts, text[end:]))


def spelled(word: str, text: str) -> str:
    """`text` with `word` as it is given, where it is written in a form that a text encoder takes for another word.

    Text encoders know no difference of case, nor of composed and decomposed letters; full-width letters are others.
    """

    def read(form: str) -> str:
        return unicodedata.normalize("NFC", form).lower()

    return replace_word(word, text, lambda found: found.group() if read(found.group()) == read(word) else word)
