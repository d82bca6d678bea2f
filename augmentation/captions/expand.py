"""Caption expansion: more captions for each picture, each of them checked, none of them describing what is learned.

The stage "LLM Augmented Captioning" of the few-shot relation report, for relations and for subjects: from a local
language model, from captions that any other node wrote, or from the built-in grammar.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ...core.errors import FewShotError
from ...core.progress import NullProgress, Progress
from ...core.text.words import find_word
from ...core.values import Concept, Sample, TrainingSet
from ...vision import language_model
from ..images.load import load_mask, load_picture
from .grammar import background_colour, relation_captions, subject_captions
from .identifiers import with_subject
from .llm_answers import captions_in
from .parse import parts_of, plain, words
from .rules import RelationRules, SubjectRules, Verdict, distinct, estimate_tokens

log = logging.getLogger(__name__)
Source = Literal["given", "model", "text", "grammar"]
MAX_ATTEMPTS = 3  # answers of a model for one picture
MIN_WRITTEN = 4  # captions of a picture from a model or a text, below which the grammar adds its own
SPARE_CAPTIONS = 4  # captions requested of a model beyond `count`, since some are refused


@dataclass(frozen=True)
class ExpansionSettings:
    """count: captions of each picture. relation: words that name the relation. bind: words that the identifier shall
    come to mean, left out of a subject's captions. seed: of the grammar's order and of the model's sampling."""

    count: int = 12
    relation: tuple[str, ...] = ()
    bind: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self):
        if not 1 <= self.count <= 100:
            raise FewShotError(f"{self.count} captions of each picture were asked for; choose from 1 to 100")


@dataclass(frozen=True)
class CaptionRow:
    """One line of the table: a caption, its source, and why it was refused ("" when it was kept)."""

    picture: str
    caption: str
    source: Source
    reason: str = ""

    @property
    def kept(self) -> bool:
        return not self.reason


def expand(
    pictures: TrainingSet,
    settings: ExpansionSettings,
    writer: language_model.Writer | None = None,
    text: str = "",
    tokens: Callable[[str], int] = estimate_tokens,
    progress: Progress | None = None,
) -> tuple[TrainingSet, list[CaptionRow]]:
    """Each reference of `pictures` as often as it has captions, its weight shared among them.

    Priors and composites stay as they are: a composite's caption names its background.

    `writer` is a language model, `text` captions from elsewhere (see `llm_answers.captions_in`); without either
    the grammar writes. The person's own captions come first. `tokens` counts the tokens of a text.

    Raises:
        FewShotError: there are no references; a relation's caption does not name its two things.
    """
    own_pictures = [sample for sample in pictures.references if not sample.pasted]
    if not own_pictures:
        raise FewShotError("the set has no pictures of its own to caption; connect Subject or Relation Pictures")
    progress = progress or NullProgress()
    given = captions_in(text) if text.strip() else {}
    pool = _by_picture(own_pictures)
    made: list[Sample] = []
    rows: list[CaptionRow] = []
    done = 0
    for sample in pictures.samples:
        if sample.role != "reference" or sample.pasted:
            made.append(sample)
            continue
        if sample.image.key not in pool:
            continue  # its other captions were taken together with the first
        progress.check()
        group = pool.pop(sample.image.key)
        index = len({r.picture for r in rows})
        picture = _PictureCaptions(sample, group, pictures.concepts[sample.concept], settings, tokens)
        own = picture.rows(writer, _captions_for(given, sample, index), bool(text.strip()), progress)
        rows += own
        kept = [row.caption for row in own if row.kept]
        weight = sum(s.weight for s in group) / len(kept)
        made += [replace(sample, caption=caption, weight=weight) for caption in kept]
        done += 1
        progress.report(done, done + len(pool), f"{picture.name}: {len(kept)} captions")
    return pictures.with_samples(tuple(made)), rows + _unmatched(text, given, rows)


def _unmatched(text: str, given: dict[str, list[str]], rows: Sequence[CaptionRow]) -> list[CaptionRow]:
    """Rows for what matches no picture of the set: a text without captions, or captions of other pictures."""
    if text.strip() and not any(given.values()):
        return [CaptionRow("", plain(text)[:80], "text", "form: the text holds no captions that can be read")]
    names = list(dict.fromkeys(row.picture for row in rows))
    known = {"", *names, *(Path(name).stem for name in names), *map(str, range(len(names)))}
    reason = "picture: there is no such picture in the set"
    return [CaptionRow(name, caption, "text", reason) for name in given if name not in known for caption in given[name]]


def _by_picture(references: Sequence[Sample]) -> dict[str, list[Sample]]:
    """References grouped by picture, which may have several captions already."""
    groups: dict[str, list[Sample]] = {}
    for sample in references:
        groups.setdefault(sample.image.key, []).append(sample)
    return groups


def _captions_for(given: dict[str, list[str]], sample: Sample, index: int) -> list[str]:
    """The captions of a text for this picture: by its name, its stem, its number, or for all."""
    path = sample.image.path
    captions: list[str] = list(given.get("", ()))
    for name in dict.fromkeys((path.name, path.stem, str(index))):
        captions += given.get(name, ())
    return captions


class _PictureCaptions:
    """Collects the captions of one picture."""

    def __init__(self, sample: Sample, group: list[Sample], concept: Concept, settings: ExpansionSettings, tokens):
        self.sample, self.concept, self.settings = sample, concept, settings
        self.name = sample.image.path.name
        self.captions = [s.caption for s in group]
        self.relation = concept.kind == "relation"
        if self.relation:
            named = [*settings.relation, concept.description]
            self.rules: RelationRules | SubjectRules = RelationRules.of(
                concept.identifier, sample.caption, named, tokens=tokens
            )
        else:
            bind = frozenset(word for phrase in settings.bind for word in words(phrase))
            self.rules = SubjectRules(concept, bind, tokens)
        self.table: list[CaptionRow] = []

    def rows(self, writer, given: list[str], from_text: bool, progress: Progress) -> list[CaptionRow]:
        """The table of this picture; at least one row is kept."""
        self._add(self.captions, "given")
        if from_text:
            self._add([self._with_identifier(caption) for caption in given], "text")
            if not given:
                self.table.append(
                    CaptionRow(self.name, "", "text", "missing: the text holds no caption of this picture")
                )
        elif writer is not None:
            self._ask_model(writer, progress)
        written = sum(1 for row in self.table if row.kept and row.source != "given")
        if from_text or writer is not None:
            if written < MIN_WRITTEN and len(self.kept) < self.settings.count:
                log.warning("%s got %d good captions; the grammar adds its own", self.name, written)
                self._add(self._grammar(), "grammar")
        else:
            self._add(self._grammar(), "grammar")
        if not self.kept:
            reasons = "; ".join(f"{row.caption[:80]}: {row.reason}" for row in self.table[:3])
            raise FewShotError(f"no caption of {self.name} can be trained on ({reasons}); write a shorter one for it")
        return self.table

    @property
    def kept(self) -> list[str]:
        return [row.caption for row in self.table if row.kept]

    def _add(self, captions: Sequence[str], source: Source) -> list[str]:
        """Check `captions` into the table; the reasons of those refused."""
        refused = []
        for caption in captions:
            verdict = self.rules.check(caption)
            if verdict.good:
                verdict = Verdict(verdict.text, distinct([*self.kept, verdict.text]).get(verdict.text, ""))
                if verdict.text in self.kept:
                    verdict = replace(verdict, reason="duplicate: it is there already")
            if verdict.good and len(self.kept) >= self.settings.count:
                break
            if source == "grammar" and not verdict.good:
                continue  # a duplicate
            self.table.append(CaptionRow(self.name, verdict.text, source, verdict.reason))
            if verdict.reason:
                refused.append(f'"{verdict.text[:120]}": {verdict.reason}')
        return refused

    def _with_identifier(self, caption: str) -> str:
        """A caption from elsewhere with the subject's identifier, where it names the class alone."""
        if self.relation or find_word(self.concept.identifier, caption):
            return caption
        return with_subject(plain(caption), self.concept) if find_word(self.concept.noun, caption) else caption

    def _ask_model(self, writer: language_model.Writer, progress: Progress) -> None:
        """Prompt the model up to `MAX_ATTEMPTS` times, each time with the reasons of refusals."""
        messages = self._messages()
        for attempt in range(MAX_ATTEMPTS):
            progress.check()
            wanted = self.settings.count - len(self.kept)
            if wanted <= 0:
                return
            answer = writer.write(messages, self.settings.seed + attempt)
            read = [text for texts in captions_in(answer).values() for text in texts]
            if not read:
                self.table.append(
                    CaptionRow(self.name, plain(answer)[:80], "model", "form: the answer holds no captions")
                )
            refused = self._add([self._with_identifier(caption) for caption in read], "model")
            messages = language_model.retry_messages(messages, answer, refused, wanted + SPARE_CAPTIONS)

    def _messages(self):
        wanted = self.settings.count + SPARE_CAPTIONS
        if isinstance(self.rules, RelationRules):
            names = self.rules.first[0], self.rules.second[0]
            return language_model.relation_messages(self.rules.placeholder, *names, self.captions[0], wanted)
        return language_model.subject_messages(self.concept, self.captions[0], self.settings.bind, wanted)

    def _grammar(self) -> list[str]:
        more = self.settings.count + len(self.kept)
        if isinstance(self.rules, RelationRules):
            parts = parts_of(self.captions[0], self.rules.placeholder, self.rules.forbidden)
            return relation_captions(parts, self.rules, more, self.settings.seed)
        seed = self.settings.seed
        # A context of hundreds of words leaves no room for a caption, so that none of them is good.
        return subject_captions(self.concept, self.rules, more, seed, self._contexts()) or subject_captions(
            self.concept, self.rules, more, seed
        )

    def _contexts(self) -> tuple[str, ...]:
        """The given caption's text after the subject, else the background's colour where there is a mask."""
        contexts = []
        match = find_word(self.concept.phrase, self.captions[0])
        if match:
            contexts = [self.captions[0][match.end() :].strip(" ,.")]
        if not any(contexts) and self.sample.mask is not None:
            colour = background_colour(load_picture(self.sample.image), load_mask(self.sample.mask))
            contexts = [f"{colour} background"] if colour else []
        return tuple(c for c in contexts if c)


def report(rows: Sequence[CaptionRow]) -> str:
    """The table as text: captions kept and refused, with the reason."""
    kept = sum(1 for row in rows if row.kept)
    lines = [f"{kept} captions kept, {len(rows) - kept} refused"]
    for picture in dict.fromkeys(row.picture for row in rows):
        lines.append(picture or "of no picture")
        own = [row for row in rows if row.picture == picture]
        lines += [f"  + {row.caption}  [{row.source}]" for row in own if row.kept]
        lines += [f"  - {row.caption}  [{row.source}] {row.reason}" for row in own if not row.kept]
    return "\n".join(lines)
