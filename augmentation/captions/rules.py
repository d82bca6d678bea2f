"""Which captions may be trained on: hard rules with a reason for each refusal.

A relation's caption is `{first thing} <R> {second thing}{, context}`: the placeholder alone says how the two relate, so
that nothing else in the caption may say it too (a caption "a cat sitting <R> a chair" explains the relation without
<R>, and pushes <R> away from what it is to mean). A subject's caption holds its identifier once, before its noun.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...core.values import Concept
from .leaks import PREPOSITIONS, ROUND, base_form, inflected, leak_verb
from .nouns import names_of, same_kind
from .parse import (
    ARTICLES,
    ATTRIBUTES,
    marked,
    names_nothing,
    parts_of,
    place_of,
    plain,
    singular,
    split_context,
    words,
)

MOST_TOKENS = 40
ALIKE = 0.9  # Jaccard index of two captions' words above which one is left out
PRONOUNS = frozenset("it its itself they them their theirs each other both one another former latter".split())
BRACES = re.compile(r"[{}\[\]<>|\\]")
ON_TOP = re.compile(r"\b(?:on|at)(?: the)? top\b", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """`text` is the caption in plain form; `reason` says why it was refused, "" when it is good."""

    text: str
    reason: str = ""

    @property
    def good(self) -> bool:
        return not self.reason


def pieces(text: str) -> int:
    """About how many tokens CLIP makes of `text`: its words and signs; the tokenizer itself may count more."""
    return len(re.findall(r"[^\W\d_]+|\d|[^\w\s]+", text))


def clip_tokens(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, without the first and the last, by the CLIP vocabulary in `folder`."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda text: len(tokenizer(text).input_ids) - 2


@dataclass(frozen=True)
class RelationRules:
    """Rules for captions of one relation picture.

    first, second: the nouns that may name each thing, its own noun first. forbidden: words of the relation itself, in
    any form. tokens: counts the tokens of a text.
    """

    placeholder: str
    first: tuple[str, ...]
    second: tuple[str, ...]
    forbidden: frozenset[str] = frozenset()
    tokens: Callable[[str], int] = field(default=pieces, compare=False)

    @classmethod
    def of(cls, placeholder: str, caption: str, relation: Iterable[str] = (), **more) -> RelationRules:
        """The rules that a person's own caption of the picture sets: its two nouns, and the relation's words."""
        forbidden = forms(relation)
        parts = parts_of(caption, placeholder, forbidden)
        first, second = names_of(parts.first.noun), names_of(parts.second.noun)
        shared = set(first[1:]) & set(second[1:])  # "animal" does not tell a cat from a dog
        first, second = (tuple(n for n in names if n not in shared) for names in (first, second))
        return cls(placeholder, first, second, forbidden, **more)

    def check(self, caption: str) -> Verdict:
        """`caption` and what is wrong with it."""
        text = marked(plain(caption), self.placeholder)
        return Verdict(text, self._wrong(text))

    def _wrong(self, text: str) -> str:
        if wrong := _form(text, self.placeholder, self.tokens):
            return wrong
        before, after = text.split(self.placeholder)
        second, context = split_context(after)
        ahead, behind = words(before), words(second)
        if wrong := self._leak_anywhere([*ahead, *behind, *words(context)], ahead[-1:] + behind[:1]):
            return wrong
        place, other = _place(self.first, ahead), _place(self.second, behind)
        if place is None or other is None:
            return self._lost(ahead, behind)
        same = {singular(n) for n in self.first} & {singular(n) for n in self.second}
        if not same and (_place(self.second, ahead) is not None or _place(self.first, behind) is not None):
            return "entities: one of the two things stands on both sides of the placeholder"
        if "," in before:
            return "form: there is a comma before the placeholder; context belongs at the end"
        return (
            self._leak_in_phrase(ahead, place) or self._leak_in_phrase(behind, other) or self._leak_in_context(context)
        )

    def _lost(self, ahead: list[str], behind: list[str]) -> str:
        if _place(self.first, behind) is not None and _place(self.second, ahead) is not None:
            return f'entities: "{self.first[0]}" and "{self.second[0]}" have changed places'
        lost, side = (self.first, "before") if _place(self.first, ahead) is None else (self.second, "after")
        return f'entities: "{lost[0]}" does not stand {side} the placeholder'

    def _leak_anywhere(self, every: list[str], beside: list[str]) -> str:
        """Words of the relation and verbs of posture anywhere; a preposition right `beside` the placeholder."""
        named = {word for noun in (*self.first, *self.second) for word in words(noun) if not names_nothing(word)}
        for word in every:
            if word in self.forbidden - named:
                return f'leak: "{word}" is a word of the relation'
            if leak_verb(word) and word not in named:
                return f'leak: "{word}" tells how the two things relate'
        for word in beside:
            if word in PREPOSITIONS - ROUND:
                return f'leak: "{word}" stands beside the placeholder and tells how the two things relate'
        return ""

    def _leak_in_phrase(self, part: list[str], place: int) -> str:
        """What tells the relation in one of the two noun phrases, whose noun is word number `place`."""
        for index, word in enumerate(part):
            described = index > place and word in ATTRIBUTES and _describes(part[index + 1 :])
            adjective = word in ROUND and index < place
            if word in PREPOSITIONS and not described and not adjective:
                return f'leak: "{word}" stands before the first comma and tells how the two things relate'
            if word in ARTICLES and 0 < index <= place and part[index - 1] != "and":
                return f'leak: "{" ".join(part[:index])}" stands between the placeholder and a thing'
        after = part[place + 1 :]
        if after and after[0] not in ATTRIBUTES:
            return f'leak: "{" ".join(after)}" stands between a thing and what comes next'
        return ""

    def _leak_in_context(self, context: str) -> str:
        """What speaks of the two things again, or says where one is without saying of what."""
        things = {singular(words(noun)[-1]) for noun in (*self.first, *self.second)}
        told = words(context)
        for word in told:
            if singular(word) in things or word in PRONOUNS:
                return f'leak: the context speaks of "{word}" again'
        if found := ON_TOP.search(context):
            return f'leak: the context says "{found.group()}"'
        if told and told[-1] in PREPOSITIONS - ROUND and told != ["outside"] and told[-2:-1] != ["from"]:
            return f'leak: the context ends in "{told[-1]}", which tells how the two things relate'
        for place, word in enumerate(told):
            thing = _object_of(told[place + 1 :]) if word in PREPOSITIONS else ""
            for noun in (self.first[0], self.second[0]):
                if again := same_kind(noun, thing):
                    return f'leak: "{word} {again}" in the context may speak of the {noun} again'
        return ""


@dataclass(frozen=True)
class SubjectRules:
    """Rules for captions of one subject. `bind` are words to leave out: the identifier shall come to mean them."""

    concept: Concept
    bind: frozenset[str] = frozenset()
    tokens: Callable[[str], int] = field(default=pieces, compare=False)

    def check(self, caption: str) -> Verdict:
        """`caption` and what is wrong with it."""
        text = plain(caption)
        return Verdict(text, self._wrong(text))

    def _wrong(self, text: str) -> str:
        concept = self.concept
        if wrong := _form(text, concept.identifier, self.tokens):
            return wrong
        _, _, after = (text.lower()).partition(concept.identifier.lower())
        follows = words(after)
        described = [*words(concept.description), *words(concept.noun)]
        if follows[: len(described)] == described:
            rest = [*words(text.lower().partition(concept.identifier.lower())[0]), *follows[len(described) :]]
        elif follows[: len(words(concept.noun))] == words(concept.noun):
            rest = [*words(text.lower().partition(concept.identifier.lower())[0]), *follows[len(words(concept.noun)) :]]
        else:
            return f'entities: "{concept.identifier}" does not stand right before "{concept.noun}"'
        for word in rest:
            if word in self.bind or singular(word) in self.bind:
                return f'bound: "{word}" is part of the subject and shall stay unsaid'
        return ""


def forms(relation: Iterable[str]) -> frozenset[str]:
    """All forms of the words that name a relation ("painted on", "back to back"), without articles and "and"."""
    found: set[str] = set()
    for phrase in relation:
        for word in words(phrase):
            if word in ARTICLES or word in ("and", "is", "are", "be"):
                continue
            base = base_form(word)
            found |= {word} if word in PREPOSITIONS else {word, *inflected(word), *inflected(base)}
    return frozenset(found)


def _object_of(rest: list[str]) -> str:
    """The words that a preposition is followed by, up to the next preposition."""
    end = next((place for place, word in enumerate(rest) if word in PREPOSITIONS), len(rest))
    return " ".join(rest[:end])


def _form(text: str, placeholder: str, tokens: Callable[[str], int]) -> str:
    """What is wrong with a caption of any kind."""
    if not words(text.replace(placeholder, "")):
        return "form: it says nothing"
    count = len(re.findall(rf"(?<!\w){re.escape(placeholder)}(?!\w)", text, re.IGNORECASE))
    if count != 1 or text.lower().count(placeholder.lower()) != 1 or placeholder not in text:
        return f"placeholder: {placeholder} stands in it {text.count(placeholder)} times, not once"
    if found := BRACES.search(text.replace(placeholder, "")):
        return f'form: it holds "{found.group()}"'
    if (length := tokens(text)) > MOST_TOKENS:
        return f"length: {length} tokens, more than {MOST_TOKENS}"
    return ""


def _place(nouns: tuple[str, ...], within: list[str]) -> int | None:
    """Where the last word of the last of `nouns` stands in `within`."""
    return max((p for n in nouns if (p := place_of(n, within)) is not None), default=None)


def _describes(rest: list[str]) -> bool:
    """Whether words after "with" or "of" are a plain description: at least a word, and no second preposition."""
    return bool([w for w in rest if w not in ARTICLES]) and not any(w in PREPOSITIONS for w in rest)


def distinct(captions: Iterable[str]) -> dict[str, str]:
    """{caption: ""} for the first of its kind, {caption: reason} for one that says the same in other order."""
    kept: list[set[str]] = []
    found: dict[str, str] = {}
    for caption in captions:
        # Articles count: "a cat" and "cat" are different levels of detail.
        own = set(re.findall(r"[\w'-]+", caption.lower()))
        same = any(len(own & other) / len(own | other) > ALIKE for other in kept if own | other)
        found.setdefault(caption, "duplicate: it says what another caption says" if same else "")
        if not same:
            kept.append(own)
    return found
