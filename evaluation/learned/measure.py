"""What the check sees: pictures of held-out prompts, compared with the references, their prompts and each other.

The base, told the class noun in place of the trigger, is the floor; the references among themselves are the ceiling.
Every column draws the same prompts from the same noise, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

import torch
from PIL import Image

from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.values import Adapter, BaseModelRef, Prompt, PromptSet, content_key
from ...vision.embedders.interface import ImageEmbedder, ImageTextEmbedder
from ..samples import Candidate, DrawSettings, draw
from .size import FULL

REVISION = 1  # of what is drawn and how it is compared; raised when either changes


@dataclass(frozen=True)
class Column:
    """What draws: a base, with an adapter at a strength or without; `plain` calls the subject by its class noun."""

    name: str
    base: BaseModelRef
    adapter: Adapter | None = None
    strength: float = FULL
    plain: bool = False

    @property
    def key(self) -> str:
        """Content key of what it draws with; its name is no part of it."""
        adapter = self.adapter.key if self.adapter is not None else ""
        base = [self.base.key, self.base.dtype, self.base.clip_skip, self.base.prediction, self.base.zero_snr]
        return content_key("Column", base, adapter, self.strength, self.plain)


@dataclass(frozen=True)
class Question:
    """What is drawn, and by whom: the floor first. `references` are each concept's pictures, none of a relation."""

    columns: tuple[Column, ...]
    prompts: tuple[tuple[Prompt, int], ...]
    references: Mapping[int, Sequence[Image.Image]]
    settings: DrawSettings


@dataclass(frozen=True)
class Embedders:
    """The CLIP that reads prompts, and what sees likeness: the same one, or another."""

    clip: ImageTextEmbedder
    likeness: ImageEmbedder

    @property
    def names(self) -> str:
        names = dict.fromkeys((self.clip.model_id, self.likeness.model_id))
        return ", likeness by ".join(names)

    def move(self, device: torch.device | str) -> None:
        for model in {id(one): one for one in (self.clip, self.likeness)}.values():
            model.move(device)


@dataclass(frozen=True)
class ColumnScores:
    """Mean cosines of a column's pictures, a number for each prompt.

    `subject`: with the references of the prompt's concept; empty without any. `prompt`: with its prompt. `unrelated`:
    with the prompts of the others. `alike`: with the pictures of the other prompts.
    """

    name: str
    strength: float
    subject: tuple[float, ...]
    prompt: tuple[float, ...]
    unrelated: tuple[float, ...]
    alike: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """What was seen, the floor's column first. `ceiling` is the likeness of the references among themselves: each
    compared with the others, None where no concept has two."""

    prompts: tuple[str, ...]
    columns: tuple[ColumnScores, ...]
    ceiling: float | None
    models: str

    @property
    def floor(self) -> ColumnScores:
        return self.columns[0]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Measurement:
        """What `plain` gave, also after a way through JSON."""
        rows: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in column.items()}
            for column in plain["columns"]
        ]
        columns = [ColumnScores(**row) for row in rows]
        return cls(tuple(plain["prompts"]), tuple(columns), plain["ceiling"], plain["models"])


def draw_columns(question: Question, context: RunContext) -> list[list[Image.Image]]:
    """The pictures of each column, a picture a prompt. Cancelled work goes on where it was.

    Raises:
        FewShotError: what `draw` refuses.
    """
    drawn: list[list[Image.Image]] = []
    for columns, prompts in _calls(question):
        candidates = [Candidate(one.name, one.adapter, one.strength) for one in columns]
        found = draw(columns[0].base, candidates, PromptSet(prompts), question.settings, context)
        drawn += [list(images) for images in found]
    return drawn


def _calls(question: Question) -> Iterator[tuple[list[Column], tuple[Prompt, ...]]]:
    """Columns that one opening of a base draws, and the prompts as they are given to it."""
    plain = tuple(prompt for prompt, _ in question.prompts)
    trained = tuple(replace(prompt, stripped=prompt.text) for prompt in plain)

    def kind(column: Column) -> tuple[str, bool]:
        return column.base.key, column.adapter is None and not column.plain

    for (_, by_name), columns in groupby(question.columns, kind):
        yield list(columns), trained if by_name else plain


def measure(
    question: Question, images: Sequence[Sequence[Image.Image]], embedders: Embedders, device: torch.device | str
) -> Measurement:
    """The scores of each column's pictures, as `draw_columns` gives them.

    Raises:
        FewShotError: there are fewer than two different prompts, or scores are not numbers.
    """
    words = [prompt.words for prompt, _ in question.prompts]
    if len(set(words)) < 2:
        raise FewShotError(f"prompt following shows on two different prompts, and there is {len(set(words))}")
    embedders.move(device)
    try:
        texts = embedders.clip.texts(words)
        references = {c: embedders.likeness.images(list(of)) for c, of in question.references.items() if of}
        targets, drawn = (texts, references), zip(question.columns, images, strict=True)
        columns = [_scores(question, column, embedders, own, targets) for column, own in drawn]
    finally:
        embedders.move("cpu")
    several = [_mutual(rows) for rows in references.values() if len(rows) > 1]
    ceiling = sum(several) / len(several) if several else None
    return Measurement(tuple(words), tuple(columns), ceiling, embedders.names)


def _scores(
    question: Question,
    column: Column,
    embedders: Embedders,
    images: Sequence[Image.Image],
    targets: tuple[torch.Tensor, Mapping[int, torch.Tensor]],
) -> ColumnScores:
    texts, references = targets
    read = embedders.clip.images(images)
    seen = read if embedders.likeness is embedders.clip else embedders.likeness.images(images)
    if not (read.isfinite().all() and seen.isfinite().all()):
        raise FewShotError(f"the pictures of {column.name} cannot be measured: {embedders.names} gives no numbers")
    words = [prompt.words for prompt, _ in question.prompts]
    other = torch.tensor([[float(a != b) for b in words] for a in words])
    fits, pairs = read @ texts.T, seen @ seen.T
    concepts = [concept for _, concept in question.prompts]
    known = all(concept in references for concept in concepts)
    subject = [float((row @ references[c].T).mean()) for row, c in zip(seen, concepts, strict=True)] if known else []
    return ColumnScores(
        column.name,
        column.strength,
        tuple(subject),
        tuple(fits.diagonal().tolist()),
        _mean_of(fits, other),
        _mean_of(pairs, other),
    )


def _mean_of(table: torch.Tensor, chosen: torch.Tensor) -> tuple[float, ...]:
    """The mean of each row where `chosen` is 1."""
    return tuple(((table * chosen).sum(1) / chosen.sum(1)).tolist())


def _mutual(rows: torch.Tensor) -> float:
    """The mean cosine of each of unit vectors (n, D) with the others."""
    cosines = rows @ rows.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (len(rows) * (len(rows) - 1)))
