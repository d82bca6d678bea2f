"""What training needs of the captions: the identifier in each of them, within the window, best as one token."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import replace

from ...augmentation.captions.identifiers import with_subject
from ...core.errors import FewShotError
from ...core.text.words import find_any, find_word, same_word, spelled
from ...core.values import Concept, Sample, TrainingSet
from ...models.contract import DiffusionModel

log = logging.getLogger(__name__)


def captioned(model: DiffusionModel, pictures: TrainingSet) -> TrainingSet:
    """`pictures` with the identifiers of all shown subjects in the references' captions; what was mended is logged.

    Raises:
        FewShotError: an identifier lies beyond what the text encoder reads of a caption.
    """
    if len(pictures.references) == 1:
        log.warning(
            "there is one picture of the subject: its pose and place will be learned with it. Three to ten, in "
            "different places, are better; masks and pasting help"
        )
    for concept in pictures.concepts:
        _tell_split(model, concept)
    mended = [with_identifiers(sample, pictures.concepts) for sample in pictures.samples]
    changed = [new for new, old in zip(mended, pictures.samples, strict=True) if new.caption != old.caption]
    if changed:
        log.warning(
            "%d of %d captions lacked their identifier, and it was put in: '%s'",
            len(changed), len(pictures.references), changed[0].caption,
        )  # fmt: skip
    for sample in mended:
        if sample.role == "reference":
            _check_window(model, sample, pictures.concepts)
    return pictures.with_samples(tuple(mended))


def check_learned(words: Collection[str], samples: Iterable[Sample], dropout: float = 0.0) -> None:
    """Raises FewShotError for a word to learn that no caption holds, or where none is read: nothing would move it."""
    if words and dropout >= 1:
        raise FewShotError(
            f"caption_dropout is {dropout:g}, so no caption is ever read, and '{next(iter(words))}' would not be "
            "learned: lower it, 0.1 is usual, or set token to none"
        )
    captions = [sample.caption for sample in samples if sample.weight > 0]
    read = {word for caption in captions for _, word in find_any(words, caption)}
    for word in words:
        if word not in read:
            example = f', as "{captions[0]}"' if captions else ""
            raise FewShotError(
                f"the word '{word}' is to be learned and stands by itself in none of {len(captions)} captions"
                f"{example}: write it into them, or choose another identifier"
            )


def _shown(sample: Sample, concepts: tuple[Concept, ...]) -> list[Concept]:
    numbers = dict.fromkeys((sample.concept, *(part.concept for part in sample.others)))
    return [concepts[number] for number in numbers if concepts[number].kind == "subject"]


def with_identifiers(sample: Sample, concepts: tuple[Concept, ...]) -> Sample:
    """A reference with the identifiers of all subjects that it shows in its caption; a prior as it is."""
    if sample.role != "reference":
        return sample
    caption = sample.caption
    for concept in _shown(sample, concepts):
        if find_word(concept.identifier, caption):
            caption = spelled(concept.identifier, caption)
        else:
            caption = with_subject(caption, concept)
    return replace(sample, caption=caption)


def _tell_split(model: DiffusionModel, concept: Concept) -> None:
    tokens = model.count_tokens(concept.identifier) if model.text_encoders else 0  # other encoders have other words
    if tokens > 1 and not any(same_word(concept.identifier, word) for word in model.learned_tokens):
        log.warning(
            "the identifier '%s' is %d tokens, whose parts mean something to the text encoder already: all of them are "
            "used, but a word of one token such as 'sks' or 'ohwx' binds better", concept.identifier, tokens,
        )  # fmt: skip


def _check_window(model: DiffusionModel, sample: Sample, concepts: tuple[Concept, ...]) -> None:
    for concept in _shown(sample, concepts):
        found = find_word(concept.identifier, sample.caption)
        if found and not model.token_positions(sample.caption, [found.span()]):
            window = model.token_limit
            raise FewShotError(
                f"the identifier '{concept.identifier}' lies beyond the {window} tokens that the text encoder reads of "
                f"the caption of {sample.image.path}. Shorten the caption, or put the identifier first."
            )
