"""What the checks of all kinds of training share: the models that compare, how is drawn, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from ...augmentation.priors.prompts import one_token_words
from ...core.randomness import seed_of
from ...core.values import BaseModelRef, Prompt, TrainingSet, content_key
from ...evaluation.learned.check import Check
from ...evaluation.learned.measure import Column, Embedders, Measurement, Question
from ...evaluation.learned.size import GUIDANCE, STEPS
from ...evaluation.learned.verdict import LearningVerdict
from ...evaluation.samples import DrawSettings
from ...vision.embedders.clip import Clip
from ...vision.embedders.clip_vision import open_image_embedder
from ..method import TrainingResult
from ..state.run_folder import RunFolder
from ..validation.image_metrics import Validator, compared_pictures

SEED = seed_of("learned", 0)
"""of the first picture; the validation, which chose the step, draws from other noise"""


@dataclass(frozen=True)
class Checker:
    """The models that compare. They are opened when they are first needed."""

    validator: Validator

    @cached_property
    def embedders(self) -> Embedders:
        clip = Clip(self.validator.clip)
        return Embedders(clip, open_image_embedder(self.validator.dino, "cpu") if self.validator.dino else clip)

    @property
    def knows(self) -> Callable[[str], bool]:
        """Whether each word of a phrase is one to the CLIP that reads the prompts."""
        clip = self.embedders.clip
        assert isinstance(clip, Clip)
        return one_token_words(lambda text: len(clip.tokenizer.tokenize(text)))

    def check(
        self,
        columns: Sequence[Column],
        prompts: Sequence[tuple[Prompt, int]],
        references: tuple[Mapping[int, Sequence[Image.Image]], str],
        resolution: int,
        judge: Callable[[Measurement], LearningVerdict],
    ) -> Check:
        """The check of these columns.

        Args:
            references: each concept's pictures, and the content key of them.
            resolution: side of the drawn pictures in pixels; 0 is the base's own.
        """
        settings = DrawSettings(1, SEED, STEPS, GUIDANCE, width=resolution, height=resolution, apart=True)
        pictures, key = references
        question = Question(tuple(columns), tuple(prompts), pictures, settings)
        return Check(question, judge, lambda: self.embedders, content_key("compared", key, self.validator.key))


def floor(base: BaseModelRef) -> Column:
    """The base alone, which calls a subject by its class."""
    return Column("base", base, plain=True)


def references_of(pictures: TrainingSet, concepts: Sequence[int]) -> tuple[dict[int, list[Image.Image]], str]:
    """The pictures that drawn ones of these concepts are compared with, and their key."""
    chosen = {concept: compared_pictures(pictures, concept) for concept in sorted(set(concepts))}
    return chosen, content_key("references", [sample.image.key for sample in pictures.references], sorted(chosen))


def trained_evaluations(result: TrainingResult, priors: bool) -> int:
    """Evaluations of the denoiser that a training on pictures took; a backward pass counts as two."""
    batch = RunFolder(result.folder, "").chosen.get("batch_size") or 1
    return len(result.losses) * int(batch) * (2 if priors else 1) * 3
