"""Which captions may be trained on: hard rules with a reason for each refusal.

A relation's caption is `{first thing} <R> {second thing}{, context}`: only the placeholder describes the relation, and
nothing else in the caption may ("a cat sitting <R> a chair" explains the relation without <R>, and weakens what <R>
learns). A subject's caption holds its identifier once, before its noun.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...core.text.words import find_words, replace_word
from ...core.values import Concept
from .leaks import ADJECTIVE_PREPOSITIONS, PREPOSITIONS, base_form, inflected, is_relation_verb
from .nouns import names_of, same_kind
from .parse import (
    ARTICLES,
    ATTRIBUTES,
    is_relation_word,
    parts_of,
    plain,
    position_of,
    singular,
    split_context,
    with_placeholder,
    words,
)

MAX_TOKENS = 40
MAX_SIMILARITY = 0.9  # Jaccard index of two captions' words above which one is left out
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


def estimate_tokens(text: str) -> int:
    """About how many CLIP tokens `text` has: its words and punctuation; the tokenizer itself may count more."""
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
    tokens: Callable[[str], int] = field(default=estimate_tokens, compare=False)

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
        """`caption` in plain form, and its problem."""
        text = with_placeholder(plain(caption), self.placeholder)
        return Verdict(text, self._problem(text))

    def _problem(self, text: str) -> str:
        if problem := _form_problem(text, self.placeholder, self.tokens):
            return problem
        before, after = around(self.placeholder, text)
        second, context = split_context(after)
        ahead, behind = words(before), words(second)
        if problem := self._leak_anywhere([*ahead, *behind, *words(context)], ahead[-1:] + behind[:1]):
            return problem
        position, other = _position(self.first, ahead), _position(self.second, behind)
        if position is None or other is None:
            return self._misplaced(ahead, behind)
        same = {singular(n) for n in self.first} & {singular(n) for n in self.second}
        if not same and (_position(self.second, ahead) is not None or _position(self.first, behind) is not None):
            return "entities: one of the two things stands on both sides of the placeholder"
        if "," in before:
            return "form: there is a comma before the placeholder; context belongs at the end"
        return (
            self._leak_in_phrase(ahead, position)
            or self._leak_in_phrase(behind, other)
            or self._leak_in_context(context)
        )

    def _misplaced(self, ahead: list[str], behind: list[str]) -> str:
        if _position(self.first, behind) is not None and _position(self.second, ahead) is not None:
            return f'entities: "{self.first[0]}" and "{self.second[0]}" have changed places'
        lost, side = (self.first, "before") if _position(self.first, ahead) is None else (self.second, "after")
        return f'entities: "{lost[0]}" does not stand {side} the placeholder'

    def _leak_anywhere(self, every: list[str], beside: list[str]) -> str:
        """Words of the relation and verbs of posture anywhere; a preposition right `beside` the placeholder."""
        named = {word for noun in (*self.first, *self.second) for word in words(noun) if not is_relation_word(word)}
        for word in every:
            if word in self.forbidden - named:
                return f'leak: "{word}" is a word of the relation'
            if is_relation_verb(word) and word not in named:
                return f'leak: "{word}" tells how the two things relate'
        for word in beside:
            if word in PREPOSITIONS - ADJECTIVE_PREPOSITIONS:
                return f'leak: "{word}" stands beside the placeholder and tells how the two things relate'
        return ""

    def _leak_in_phrase(self, part: list[str], position: int) -> str:
        """Words that describe the relation in one of the two noun phrases, whose noun is at `position`."""
        for index, word in enumerate(part):
            described = index > position and word in ATTRIBUTES and _describes(part[index + 1 :])
            adjective = word in ADJECTIVE_PREPOSITIONS and index < position
            if word in PREPOSITIONS and not described and not adjective:
                return f'leak: "{word}" stands before the first comma and tells how the two things relate'
            if word in ARTICLES and 0 < index <= position and part[index - 1] != "and":
                return f'leak: "{" ".join(part[:index])}" stands between the placeholder and a thing'
        after = part[position + 1 :]
        if after and after[0] not in ATTRIBUTES:
            return f'leak: "{" ".join(after)}" stands between a thing and what comes next'
        return ""

    def _leak_in_context(self, context: str) -> str:
        """Words of the context that name one of the two things again, or place one without saying where."""
        things = {singular(words(noun)[-1]) for noun in (*self.first, *self.second)}
        context_words = words(context)
        for word in context_words:
            if singular(word) in things or word in PRONOUNS:
                return f'leak: the context speaks of "{word}" again'
        if match := ON_TOP.search(context):
            return f'leak: the context says "{match.group()}"'
        last = context_words[-1] if context_words else ""
        outside = context_words == ["outside"] or context_words[-2:-1] == ["from"]
        if last in PREPOSITIONS - ADJECTIVE_PREPOSITIONS and not outside:
            return f'leak: the context ends in "{last}", which tells how the two things relate'
        for position, word in enumerate(context_words):
            thing = _object_of(context_words[position + 1 :]) if word in PREPOSITIONS else ""
            for noun in (self.first[0], self.second[0]):
                if again := same_kind(noun, thing):
                    return f'leak: "{word} {again}" in the context may speak of the {noun} again'
        return ""


@dataclass(frozen=True)
class SubjectRules:
    """Rules for captions of one subject. `bind` are words to leave out: the identifier shall come to mean them."""

    concept: Concept
    bind: frozenset[str] = frozenset()
    tokens: Callable[[str], int] = field(default=estimate_tokens, compare=False)

    def check(self, caption: str) -> Verdict:
        """`caption` in plain form, and its problem."""
        text = plain(caption)
        return Verdict(text, self._problem(text))

    def _problem(self, text: str) -> str:
        concept = self.concept
        if problem := _form_problem(text, concept.identifier, self.tokens):
            return problem
        before, after = around(concept.identifier, text)
        follows = words(after)
        described = [*words(concept.description), *words(concept.noun)]
        if follows[: len(described)] == described:
            rest = [*words(before), *follows[len(described) :]]
        elif follows[: len(words(concept.noun))] == words(concept.noun):
            rest = [*words(before), *follows[len(words(concept.noun)) :]]
        else:
            return f'entities: "{concept.identifier}" does not stand right before "{concept.noun}"'
        for word in rest:
            if word in self.bind or singular(word) in self.bind:
                return f'bound: "{word}" is part of the subject and shall stay unsaid'
        return ""


def forms(relation: Iterable[str]) -> frozenset[str]:
    """All forms of the words that name a relation ("painted on", "back to back"), without articles and "and"."""
    result: set[str] = set()
    for phrase in relation:
        for word in words(phrase):
            if word in ARTICLES or word in ("and", "is", "are", "be"):
                continue
            base = base_form(word)
            result |= {word} if word in PREPOSITIONS else {word, *inflected(word), *inflected(base)}
    return frozenset(result)


def around(placeholder: str, text: str) -> tuple[str, str]:
    """What stands before and after the placeholder, which is in `text` once."""
    found = find_words(placeholder, text)[0]
    return text[: found.start()], text[found.end() :]


def _object_of(rest: list[str]) -> str:
    """The words that a preposition is followed by, up to the next preposition."""
    end = next((position for position, word in enumerate(rest) if word in PREPOSITIONS), len(rest))
    return " ".join(rest[:end])


def _form_problem(text: str, placeholder: str, tokens: Callable[[str], int]) -> str:
    """The problem of a caption of any kind, "" without one."""
    rest = replace_word(placeholder, text, lambda _: "")
    if not words(rest):
        return "form: it says nothing"
    if (count := len(find_words(placeholder, text))) != 1:
        return f"placeholder: {placeholder} stands in it {count} times, not once"
    if match := BRACES.search(rest):
        return f'form: it holds "{match.group()}"'
    if (length := tokens(text)) > MAX_TOKENS:
        return f"length: {length} tokens, more than {MAX_TOKENS}"
    return ""


def _position(nouns: tuple[str, ...], within: list[str]) -> int | None:
    """The index in `within` of the last word of the last of `nouns`."""
    return max((p for n in nouns if (p := position_of(n, within)) is not None), default=None)


def _describes(rest: list[str]) -> bool:
    """Whether words after "with" or "of" are a plain description: at least a word, and no second preposition."""
    return bool([w for w in rest if w not in ARTICLES]) and not any(w in PREPOSITIONS for w in rest)


def distinct(captions: Iterable[str]) -> dict[str, str]:
    """{caption: ""} for the first of its kind, {caption: reason} for one that says the same in other order."""
    kept: list[set[str]] = []
    reasons: dict[str, str] = {}
    for caption in captions:
        # Articles count: "a cat" and "cat" are different levels of detail.
        own = set(re.findall(r"[\w'-]+", caption.lower()))
        same = any(len(own & other) / len(own | other) > MAX_SIMILARITY for other in kept if own | other)
        reasons.setdefault(caption, "duplicate: it says what another caption says" if same else "")
        if not same:
            kept.append(own)
    return reasons
