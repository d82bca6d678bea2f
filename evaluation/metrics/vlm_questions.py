"""Whether a picture shows a relation, by the answers of a vision-language model to questions about it.

The classifier that ReVersion measures with reads features of a scene graph model that cannot be had here. A local model
is asked instead, as VQAScore does (Lin et al. 2024): its probability of "yes", and its choice between the relation and
others. Papers' numbers are on another scale; score the training pictures themselves as a control.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Protocol

import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.values import Concept, Prompt
from ..measurement import Measure
from ..prompts.lists import RELATIONS
from .metric import MetricModel, ModelMetric, check_pairs
from .relation import checked, distractors, entities

DISTRACTORS = 4


class VisionLanguageModel(MetricModel, Protocol):
    """A vision-language model that answers."""

    def answers(self, picture: Image.Image, question: str, choices: Sequence[str]) -> list[float]:
        """How probable each of `choices` is as the answer about an RGB picture, in relation to the others; their sum
        is 1."""
        ...


class YesProbability(ModelMetric):
    """The probability of "yes" against "no" when asked whether the first thing is in the relation to the second."""

    name = "relation: yes"

    def __init__(self, vlm: VisionLanguageModel, relation: str):
        self.model, self.relation = vlm, checked(relation)

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Probabilities (n,) in [0, 1]; see `Metric`. FewShotError for a prompt without the relation."""
        check_pairs(images, prompts)
        probabilities = []
        for image, prompt in zip(images, prompts, strict=True):
            first, second = entities(prompt.words, self.relation)
            question = f"Is the {first} {self.relation} the {second}? Answer yes or no."
            probabilities.append(self.model.answers(image.convert("RGB"), question, ("yes", "no"))[0])
        return torch.tensor(probabilities, dtype=torch.float32)


class PairwiseChoice(ModelMetric):
    """The share of other relations against which the own one is chosen, asked in pairs (2AFC); chance is 0.5.

    Each pair is asked in both orders and their probabilities are averaged, since models prefer a place in the list.
    """

    name = "relation: chosen"

    def __init__(self, vlm: VisionLanguageModel, relation: str, others: Sequence[str]):
        self.model, self.relation = vlm, checked(relation)
        self.others = distractors(self.relation, others)[:DISTRACTORS]

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image] = ()
    ) -> torch.Tensor:
        """Shares (n,) in [0, 1]; see `Metric`. FewShotError for a prompt without the relation."""
        check_pairs(images, prompts)
        pairs = zip(images, prompts, strict=True)
        return torch.tensor([self._share(image.convert("RGB"), prompt) for image, prompt in pairs])

    def _share(self, image: Image.Image, prompt: Prompt) -> float:
        first, second = entities(prompt.words, self.relation)
        won = []
        for other in self.others:
            statements = [f"the {first} is {words} the {second}" for words in (self.relation, other)]
            first_order = self.model.answers(image, _choice(*statements), ("A", "B"))[0]
            swapped_order = self.model.answers(image, _choice(*statements[::-1]), ("A", "B"))[1]
            won.append(float(first_order + swapped_order > 1))
        return mean(won)


def _choice(one: str, other: str) -> str:
    return f"Which is true of this picture? A: {one}. B: {other}. Answer A or B."


def vlm_measures(vlm: VisionLanguageModel, concept: Concept | None) -> list[Measure]:
    """What a model that is asked measures of a relation that is described in words.

    Raises:
        FewShotError: there is no relation, or no words for it to ask with.
    """
    if concept is None or concept.kind != "relation" or not concept.description.strip():
        raise FewShotError(
            "a vision-language model is asked whether pictures show a relation: connect the SET of Relation Pictures "
            "with its relation in words, or set asked to none"
        )
    others = [words for words, _, _ in RELATIONS.values()]
    return [
        Measure(YesProbability(vlm, concept.description), "subject", ceiling=1.0),
        Measure(PairwiseChoice(vlm, concept.description, others), "subject", ceiling=1.0),
    ]
