"""Whether a picture shows both things of a relation, and that relation rather than another (ReVersion, section 5)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.text.words import find_word, same_word
from ...core.values import Concept, Prompt
from ...vision.embedders.clip import Clip
from ..measurement import Measure
from ..prompts.lists import RELATIONS
from .clip import ClipMetric, PromptFit
from .metric import check_pairs


class EntityAccuracy(PromptFit):
    """The cosine of each picture and "E_A, E_B", its prompt without the relation; papers print it times 100."""

    name = "entity accuracy"

    def __init__(self, clip: Path | Clip, relation: str, device: torch.device | str = "cpu"):
        super().__init__(clip, device)
        self.relation = checked(relation)

    def targets(self, prompts: Sequence[Prompt]) -> torch.Tensor:
        """FewShotError for a prompt without the relation."""
        return self.model.texts([", ".join(entities(prompt.words, self.relation)) for prompt in prompts])


class RelationAccuracy(ClipMetric):
    """1 where the picture fits its own prompt better than the same prompt with any of the other relations, else 0.

    ReVersion classifies features of a scene graph model that cannot be had here; this asks a CLIP instead, so its
    numbers are no paper's. Chance is 1 / (1 + number of the others); score the exemplars themselves as a control.
    """

    name = "relation accuracy"

    def __init__(self, clip: Path | Clip, relation: str, others: Sequence[str], device: torch.device | str = "cpu"):
        super().__init__(clip, device)
        self.relation = checked(relation)
        self.others = distractors(self.relation, others)

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """0 or 1 for each picture (n,); see `Metric`. FewShotError for a prompt without the relation."""
        check_pairs(images, prompts)
        embeddings = self.model.images(images)
        fits = []
        for phrase in (self.relation, *self.others):
            texts = [replaced(prompt.words, self.relation, phrase) for prompt in prompts]
            fits.append((embeddings * self.model.texts(texts)).sum(-1))
        table = torch.stack(fits)
        return (table[0] > table[1:].amax(0)).float()


def relation_measures(clip: Clip, concept: Concept) -> list[Measure]:
    """What measures a relation that is described in words; nothing for subjects and for relations without words.

    The relation stands where a subject's likeness does, its two things where the prompt does.
    """
    if concept.kind != "relation" or not concept.description.strip():
        return []
    others = [words for words, _, _ in RELATIONS.values()]
    return [
        Measure(RelationAccuracy(clip, concept.description, others), "subject", ceiling=1.0),
        Measure(EntityAccuracy(clip, concept.description), "prompt"),
    ]


def entities(text: str, relation: str) -> tuple[str, str]:
    """The two things of "a photo of a cat inside a box": ("cat", "box"), without articles and "a photo of".

    Raises:
        FewShotError: the relation is not in the text, or a side of it is empty.
    """
    found = find_word(relation, text)
    first, second = (_bare(text[: found.start()]), _bare(text[found.end() :])) if found else ("", "")
    if not first or not second:
        raise FewShotError(f'the prompt "{text}" does not say what is {relation} what; write both things around it')
    return first, second


def replaced(text: str, relation: str, other: str) -> str:
    """`text` with another relation in the place of its own."""
    entities(text, relation)
    found = find_word(relation, text)
    assert found is not None  # or there were no entities
    return f"{text[: found.start()]}{other}{text[found.end() :]}"


def distractors(relation: str, others: Sequence[str]) -> tuple[str, ...]:
    """The relations other than `relation`. Raises FewShotError where there are none."""
    different = tuple(other for other in others if not same_word(other, relation))
    if not different:
        raise FewShotError("a relation is told from others and there are none; name at least one other relation")
    return different


def checked(relation: str) -> str:
    """The relation's words. Raises FewShotError where there are none."""
    if not relation.strip():
        raise FewShotError("the relation has no words; name it, such as 'inside' or 'painted on'")
    return " ".join(relation.split())


def _bare(words: str) -> str:
    words = re.sub(r"^(a |the )?(photo|picture|image|painting|drawing) of ", "", words.strip(" ,.").lower())
    return re.sub(r"^(an?|the) ", "", words).removesuffix(" is").strip()
