"""Prompts of a relation between own things: a template over two lists, with the relation's word in its place."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...core.errors import FewShotError
from ...core.text.words import replace_word
from .lists import RELATIONS, TRIGGER

FIRST, SECOND = "{first}", "{second}"
TEMPLATE = f"a {FIRST} {TRIGGER} a {SECOND}"


def relation_lines(template: str, first: Sequence[str], second: Sequence[str], identifier: str = "") -> tuple[str, ...]:
    """`template` over all pairs of two different things; the first prompts hold as many different ones as they can.

    Args:
        template: holds {first}, {second} and, for the relation, {trigger}, <R> or the identifier, each once; "a"
            before a thing becomes "an" where that thing asks for it.

    Raises:
        FewShotError: a part of the template is missing or there twice, or no pair of things is left.
    """
    for word in dict.fromkeys((identifier, "<R>")):
        if word and TRIGGER not in template:
            template = replace_word(word, template, lambda _: TRIGGER)
    for part in (FIRST, TRIGGER, SECOND):
        if template.count(part) != 1:
            raise FewShotError(
                f'{part} stands in the template "{template}" {template.count(part)} times, not once as in "{TEMPLATE}"'
            )
    firsts, seconds = (list(dict.fromkeys(" ".join(thing.split()) for thing in things)) for things in (first, second))
    firsts, seconds = [thing for thing in firsts if thing], [thing for thing in seconds if thing]
    count = len(seconds)
    pairs = [(thing, seconds[(i + turn) % count]) for turn in range(count) for i, thing in enumerate(firsts)]
    lines = tuple(_put(_put(template, FIRST, a), SECOND, b) for a, b in pairs if a != b)
    if not lines:
        raise FewShotError("there are no two different things: write one a line into first and into second")
    return lines


def things_of(relation: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The things on either side of one of ReVersion's relations. Raises FewShotError for another name."""
    if relation not in RELATIONS:
        raise FewShotError(f"no relation {relation!r} in ReVersion's set; choose one of {', '.join(RELATIONS)}")
    return RELATIONS[relation][1:]


def _put(text: str, part: str, thing: str) -> str:
    """`thing` in the place of `part`, with an article before it that fits."""
    article = "an" if thing[:1].lower() in "aeiou" else "a"
    text = re.sub(rf"\ban? {re.escape(part)}", lambda _: f"{article} {thing}", text)
    return text.replace(part, thing)
