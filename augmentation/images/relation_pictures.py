"""Pictures that share a relation as a training set: from a folder, or from tensors of a host.

A caption names the two things with the relation's word between them: "cat <R> chair, indoors". Two names alone, as
"cat, chair", are one too.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from ...core.errors import FewShotError
from ...core.values import Concept, Picture, Sample, TrainingSet
from ..captions.parse import parts_of, plain, with_placeholder
from ..folder.files import picture_files
from .load import picture_of, pictures_from_tensors

log = logging.getLogger(__name__)
# The captions file of ReVersion's folders: {"0.jpg": ["cat {} stone", ...]}.
TEMPLATES = "text.json"
_TWO = re.compile(r"\s*([^,]+?)\s*,\s*([^,]+?)\s*")


def relation_concept(identifier: str, relation: str = "") -> Concept:
    """The concept of a relation's word; `relation` says in plain words what it will mean.

    Raises FewShotError for an empty word, or one of several words.
    """
    identifier, relation = identifier.strip(), " ".join(relation.split())
    if not identifier or len(identifier.split()) > 1:
        raise FewShotError(f"the relation's word is '{identifier}'; give one word that does not exist, such as <R>")
    return Concept(identifier, "", relation, kind="relation")


def relation_from_folder(
    folder: Path, identifier: str, relation: str = "", things: str = "", warnings: list[str] | None = None
) -> TrainingSet:
    """Read the pictures in `folder` as references of one relation.

    The captions of a picture are those of ReVersion's text.json, or the lines of the file of the same name ending in
    .txt (or of any other form that is usual, see `folder.captions`), or else `things`. The weight of a picture is
    shared among its captions.

    Args:
        things: the captions of pictures that have none of their own, one a line, as "cat, chair".

    Raises:
        FewShotError: no pictures that can be read, or a picture without a caption that names two things.
    """
    concept = relation_concept(identifier, relation)
    notes: list[str] = []
    files = picture_files(folder, notes, TEMPLATES)
    samples: list[Sample] = []
    for file in files:
        try:
            picture = picture_of(file.path, notes)
        except FewShotError as error:
            notes.append(f"{file.path.name} was left out: {error}")
            continue
        lines = file.caption.lines or _lines(things)
        samples += captioned_samples(picture, lines, concept, file.weight)
    for note in notes:
        log.warning("%s", note)
    if warnings is not None:
        warnings.extend(notes)
    if not samples:
        raise FewShotError(
            f"there are no pictures that can be read in {folder}: {'; '.join(notes[:3]) or 'it is empty'}"
        )
    return TrainingSet(tuple(samples), (concept,))


def relation_from_tensors(
    images: torch.Tensor | Sequence[torch.Tensor], cache: Path, identifier: str, relation: str, captions: str
) -> TrainingSet:
    """Pictures (B, H, W, 3 or 4) in [0, 1] as references of one relation.

    Args:
        captions: one line for each picture, or one for all; several for one picture are separated by |.

    Raises:
        FewShotError: no pictures, other numbers of captions than of pictures, or one that does not name two things.
    """
    concept = relation_concept(identifier, relation)
    pictures = pictures_from_tensors(images, cache)
    lines = _lines(captions)
    if len(lines) not in (1, len(pictures)):
        raise FewShotError(
            f"there are {len(pictures)} pictures but {len(lines)} lines of captions; write one for each, or one for "
            f'all, such as "cat {identifier} chair"'
        )
    each = lines * (len(pictures) if len(lines) == 1 else 1)
    samples = [
        sample
        for picture, line in zip(pictures, each, strict=True)
        for sample in captioned_samples(picture, [part.strip() for part in line.split("|") if part.strip()], concept)
    ]
    return TrainingSet(tuple(samples), (concept,))


def captioned_samples(picture: Picture, captions: Sequence[str], concept: Concept, weight: float = 1.0) -> list[Sample]:
    """The picture once for each caption; they share its weight. Raises FewShotError for what names no two things."""
    if not captions:
        raise FewShotError(
            f"{picture.path.name} has no caption; write its two things into {picture.path.stem}.txt, as "
            f'"cat {concept.identifier} chair", or into things, as "cat, chair"'
        )
    texts = [with_relation(caption, concept.identifier) for caption in captions]
    return [Sample(image=picture, caption=text, weight=weight / len(texts)) for text in dict.fromkeys(texts)]


def with_relation(caption: str, identifier: str) -> str:
    """A caption with the relation's word between its two things; "cat, chair" becomes "cat <R> chair".

    Raises FewShotError where the word stands in it more than once, or no two things are named.
    """
    text = with_placeholder(plain(caption), identifier)
    two = _TWO.fullmatch(text)
    if identifier not in text and two:
        text = f"{two[1]} {identifier} {two[2]}"
    parts_of(text, identifier)
    return text


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
