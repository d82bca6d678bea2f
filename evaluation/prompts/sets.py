"""The prompts a subject or a relation is measured with: the papers' sets, the pocket's, and a person's own lines.

A line names the subject by {trigger}; what stands in its place, and what a metric reads instead, follows from the
concept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ...core.errors import FewShotError
from ...core.text.prompts import prompt_of
from ...core.text.weights import escaped
from ...core.text.words import find_noun, find_word
from ...core.values import Concept, Prompt, PromptSet
from .lists import (  # fmt: skip
    ACTIVITIES,
    DREAMBENCH_OF,
    GROUNDS,
    INSTRUCTBOOTH,
    LOOKS,
    NAMES,
    POCKET,
    POCKETS,
    RELATIONS,
    REVERSION,
    TRIGGER,
)


def lines_of(name: str, relation: str = "") -> tuple[str, ...]:
    """The lines of a known set, with {trigger} for the subject, or for the relation `relation` of `RELATIONS`.

    Raises:
        FewShotError: there is no such set or relation.
    """
    if name in DREAMBENCH_OF:
        lines = tuple(f"a {TRIGGER} {words}" for words in (*GROUNDS, *DREAMBENCH_OF[name]))
        return lines + tuple(f"{look} {TRIGGER}" for look in LOOKS)
    for kind, title in INSTRUCTBOOTH.items():
        if name == title:
            return tuple(f"a {TRIGGER} {words}" for words in ACTIVITIES[kind])
    if name == REVERSION:
        if relation not in RELATIONS:
            raise FewShotError(f"no relation {relation!r} in ReVersion's set; choose one of {', '.join(RELATIONS)}")
        _, first, second = RELATIONS[relation]
        pairs = [(first[i], second[(i + turn) % len(second)]) for turn in range(len(second)) for i in range(len(first))]
        return tuple(f"{_with_article(a)} {TRIGGER} {_thing(b, relation)}" for a, b in pairs if a != b)
    if name == POCKETS:
        return POCKET
    raise FewShotError(f"no prompt set {name!r}; choose one of {', '.join(NAMES)}")


def _with_article(words: str) -> str:
    if re.match(r"(a|an|the) ", words):
        return words
    return f"a{'n' if words[:1].lower() in 'aeiou' else ''} {words}"


def _thing(word: str, relation: str) -> str:
    """Materials have no article: "carved by jade"."""
    return word if relation == "carved_by" else _with_article(word)


def prompt_set(lines: Sequence[str], concept: Concept, most: int) -> tuple[PromptSet, tuple[str, ...]]:
    """At most `most` prompts of these lines, and a sentence about each line that was left out.

    A line must name the subject: by {trigger}, its identifier or its noun (a relation by {trigger} or its identifier).
    Without an identifier {trigger} stays, and each adapter puts its own in its place.

    Raises:
        FewShotError: there is no line that names the subject.
    """
    if not concept.identifier and not concept.noun and concept.kind == "subject":
        raise FewShotError("the noun is empty: say what kind of thing the prompts ask for, such as cat")
    prompts: list[Prompt] = []
    left_out: list[str] = []
    for line in dict.fromkeys(" ".join(line.split()) for line in lines):
        if not line or line.startswith("#"):
            continue
        if not _names(line, concept):
            left_out.append(f'left out, because it does not name the {concept.noun or "relation"}: "{line}"')
        else:
            prompts.append(_prompt(line, concept))
    if not prompts:
        reason = f"; {left_out[0]}" if left_out else ""
        raise FewShotError(f"there is no prompt to draw{reason}. Write one a line, with {TRIGGER} for the subject")
    kept, beyond = bounded(PromptSet(tuple(prompts)), most)
    return kept, (*left_out, *beyond)


def bounded(prompts: PromptSet, most: int) -> tuple[PromptSet, tuple[str, ...]]:
    """At most `most` of the prompts, and a sentence about the others; of either split in proportion."""
    known = prompts.prompts
    if len(known) <= most:
        return prompts, ()
    learned = [prompt for prompt in known if prompt.split == "train"]
    others = [prompt for prompt in known if prompt.split != "train"]
    share = round(most * len(learned) / len(known))
    if learned and others and most > 1:
        share = min(max(1, share), most - 1)
    spread = [learned[i * len(learned) // share] for i in range(share)]  # both forms stay, at their share
    note = f"{len(known) - most} of {len(known)} prompts are beyond the bound of {most}"
    return replace(prompts, prompts=(*spread, *others[: most - share])), (note,)


def for_trigger(prompts: PromptSet, trigger: str) -> PromptSet:
    """The prompts with `trigger` in the place of {trigger}.

    Raises:
        FewShotError: a prompt leaves the trigger to an adapter that knows none.
    """
    left = [prompt.text for prompt in prompts.prompts if TRIGGER in prompt.text]
    if left and not trigger:
        raise FewShotError(
            f'no trigger phrase is known, but a prompt holds {TRIGGER}: "{left[0]}"; give Prompt Set the identifier'
        )
    named = tuple(replace(prompt, text=insert_phrase(prompt.text, escaped(trigger))) for prompt in prompts.prompts)
    return replace(prompts, prompts=named)


def _names(line: str, concept: Concept) -> bool:
    named = TRIGGER in line or find_word(concept.identifier, line)
    return bool(named or (concept.kind == "subject" and find_noun(concept.noun, line)))


def _prompt(line: str, concept: Concept) -> Prompt:
    """The line with the subject's words in it; what a metric reads has its description and noun alone."""
    if concept.identifier:
        phrase = concept.identifier if concept.kind == "relation" else concept.phrase
        return prompt_of(insert_phrase(line, phrase), [concept])
    words = concept.description if concept.kind == "relation" else f"{concept.description} {concept.noun}".strip()
    return Prompt(line, insert_phrase(line, words))


def insert_phrase(line: str, phrase: str) -> str:
    """`line` with `phrase` in the place of {trigger}, and an article before it that fits."""
    line = re.sub(rf"\b[Aa]n? {re.escape(TRIGGER)}", lambda match: _cased(match[0], _with_article(phrase)), line)
    return line.replace(TRIGGER, phrase)


def _cased(old: str, new: str) -> str:
    return new[0].upper() + new[1:] if old[0].isupper() else new
