"""Captions by a local captioner, with the subject's identifier and without words bound to it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.text.words import same_word
from ...core.values import Concept, TrainingSet
from ...vision.captioners import DETAILS, Captioner
from ..images.load import load_picture
from .identifiers import with_subject
from .parse import ARTICLES, plain, singular, words

log = logging.getLogger(__name__)
# Tokens that CLIP's text encoders read; the first and last are not words.
TOKEN_WINDOW = 77
OPENINGS = re.compile(
    r"^(?:(?:the|this) (?:image|picture|photo|photograph) (?:shows|depicts|features|captures|is of)|"
    r"in (?:the|this) (?:image|picture|photo),?(?: we (?:can )?see| there is)?)\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class CaptionSettings:
    """How captions are written.

    bind: words to omit from each subject's captions: the identifier absorbs what is not said. A line "sks: collar, red"
        is for the subject with that identifier alone, any other line for all.
    overwrite: False keeps a caption that is more than "a photo of" the subject.
    """

    bind: tuple[str, ...] = ()
    detail: Literal["short", "detailed", "full"] = "short"
    overwrite: bool = True

    def __post_init__(self):
        if self.detail not in DETAILS:
            raise FewShotError(f"detail is {self.detail!r}; choose one of {', '.join(DETAILS)}")


@dataclass(frozen=True)
class CaptionRecord:
    """One picture's line in the report: the model's answer, the final caption, and its tokens where counted."""

    picture: str
    answer: str
    caption: str
    tokens: int | None = None

    @property
    def too_long(self) -> bool:
        return self.tokens is not None and self.tokens > TOKEN_WINDOW

    def __str__(self) -> str:
        count = "" if self.tokens is None else f"  [{self.tokens}/{TOKEN_WINDOW} tokens]"
        lost = f" of {TOKEN_WINDOW} the rest is not read" if self.too_long else ""
        return f"{self.picture}: {self.answer} -> {self.caption}{count}{lost}"


def caption_set(
    pictures: TrainingSet,
    captioner: Captioner,
    settings: CaptionSettings | None = None,
    progress: Progress | None = None,
    tokens: Callable[[str], int] | None = None,
) -> tuple[TrainingSet, list[CaptionRecord]]:
    """The references of `pictures` with captions by `captioner`; priors and composites keep theirs.

    `tokens` counts the tokens of a caption, without the first and the last.

    Raises:
        FewShotError: no references, a relation (its captions name what it connects), a `bind` line for a subject that
            is not in the set.
    """
    settings = settings or CaptionSettings()
    if all(sample.pasted for sample in pictures.references):
        raise FewShotError("the set has no pictures of its own to caption; connect Subject Pictures")
    progress, left_out = progress or NullProgress(), words_to_omit(pictures.concepts, settings.bind)
    made, table = [], []
    for sample in pictures.samples:
        progress.check()
        concept = pictures.concepts[sample.concept]
        if (
            sample.role != "reference"
            or sample.pasted
            or not (settings.overwrite or sample.caption == with_subject("", concept))
        ):
            made.append(sample)
            continue
        if concept.kind == "relation":
            raise FewShotError(
                f"{sample.image.path.name} shows a relation, and a captioner would name it; write its two things "
                f'yourself ("cat {concept.identifier} chair") and connect Expand Captions'
            )
        answer = plain(captioner.caption(load_picture(sample.image), settings.detail))
        caption = with_subject(without_words(OPENINGS.sub("", answer), left_out[sample.concept], concept), concept)
        if not answer:
            log.warning("the captioner said nothing of %s; it is captioned %s", sample.image.path.name, caption)
        made.append(replace(sample, caption=caption))
        table.append(CaptionRecord(sample.image.path.name, answer, caption, tokens(caption) + 2 if tokens else None))
        if table[-1].too_long:
            log.warning("%s", table[-1])
        progress.report(len(table), len(pictures.references), f"{sample.image.path.name}: {caption}")
    return pictures.with_samples(tuple(made)), table


def report(table: Sequence[CaptionRecord]) -> str:
    """A line for each picture, and how many captions are longer than a text encoder reads."""
    long = sum(1 for row in table if row.too_long)
    head = f"{len(table)} captions"
    if long:
        head += f", {long} of them too long: choose less detail, or words to leave out"
    return "\n".join([head, *map(str, table)])


def words_to_omit(concepts: Sequence[Concept], lines: Sequence[str]) -> list[frozenset[str]]:
    """For each of `concepts` the words that `lines` omit from its captions; see `CaptionSettings.bind`."""
    omitted: list[set[str]] = [set() for _ in concepts]
    for line in lines:
        name, colon, rest = line.partition(":")
        chosen = [i for i, c in enumerate(concepts) if not colon or same_word(c.identifier, name)]
        if not chosen:
            names = ", ".join(c.identifier for c in concepts)
            raise FewShotError(f'"{line}" is for a subject "{name.strip()}" that the set does not have ({names})')
        for index in chosen:
            omitted[index] |= set(words(rest if colon else line))
    return [frozenset(words_) for words_ in omitted]


def without_words(caption: str, bind: frozenset[str], concept: Concept) -> str:
    """`caption` without the words in `bind` (in the singular or the plural); the class noun always stays.

    Phrases that only a bound word held together go too: of "a dog with a red collar on grass" and "collar", "red",
    "with a" goes as well.
    """
    out = {singular(word) for word in bind} - {singular(word) for word in words(concept.noun)}
    if not out:
        return caption
    kept = [token for token in caption.split() if not _is_omitted(token, out)]
    return _tidy(" ".join(kept))


def _is_omitted(token: str, out: set[str]) -> bool:
    parts = words(token)
    return bool(parts) and all(singular(part) in out for part in parts)


def _tidy(text: str) -> str:
    """`text` without articles and joining words whose noun was removed."""
    joining = rf"(?:with|and|wearing|in|of|on|has|having|that|{'|'.join(sorted(ARTICLES))})"
    before = None
    while before != text:
        before = text
        text = re.sub(rf"\b{joining}\s+(?=(?:with|and|wearing|in|on|at|of|under|near|beside|is)\b)", "", text)
        text = re.sub(rf"\s+{joining}(?=\s*(?:[,.]|$))", "", text)
        text = re.sub(r"\s+(?=[,.])", "", re.sub(r"(?:,\s*)+,", ",", text))
        text = re.sub(r"\b([Aa])n (?=[^aeiouAEIOU\W])", r"\1 ", text)
    return " ".join(text.split()).strip(" ,")
