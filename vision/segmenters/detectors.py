"""Open-vocabulary detectors: boxes for phrases. Masks need a SAM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from ...core.text.prompts import with_article
from ..open import TransformersModel
from .interface import Instance

MAX_CANDIDATES = 50  # candidates of one phrase that are kept, best first


class GroundingDino(TransformersModel):
    """Grounding DINO (Liu et al. 2023), through transformers."""

    threshold = 0.25
    model_class = "GroundingDinoForObjectDetection"

    @torch.no_grad()
    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        """Each phrase runs by itself, so that a box never belongs to words of two phrases."""
        instances: list[Instance] = []
        for phrase in phrases:
            # The model was trained on lower-case phrases that end with a full stop.
            text = phrase.lower().strip(" .") + "."
            inputs = self.processor(images=picture, text=text, return_tensors="pt").to(self.device)
            outputs = self.model(**inputs)
            (result,) = self.processor.post_process_grounded_object_detection(
                outputs, inputs.input_ids, threshold=0.0, text_threshold=1.0,
                target_sizes=[(picture.height, picture.width)],
            )  # fmt: skip
            instances += _instances(result, phrase, picture)
        return instances


class Owl(TransformersModel):
    """OWLv2 (Minderer et al. 2023), through transformers. It pads to a square and scales its boxes back itself."""

    threshold = 0.1
    model_class = "Owlv2ForObjectDetection"

    @torch.no_grad()
    def find(self, picture: Image.Image, phrases: Sequence[str], threshold: float) -> list[Instance]:
        instances: list[Instance] = []
        for phrase in phrases:
            inputs = self.processor(
                text=[[f"a photo of {with_article(phrase)}"]], images=picture, truncation=True, return_tensors="pt"
            ).to(self.device)
            outputs = self.model(**inputs)
            (result,) = self.processor.post_process_grounded_object_detection(
                outputs, threshold=0.0, target_sizes=[(picture.height, picture.width)]
            )
            instances += _instances(result, phrase, picture)
        return instances


def _instances(result, phrase: str, picture: Image.Image) -> list[Instance]:
    """The best candidates of a result of transformers, their boxes cut to the picture."""
    best = torch.argsort(result["scores"], descending=True)[:MAX_CANDIDATES].tolist()
    instances = []
    for index in best:
        left, top, right, bottom = result["boxes"][index].tolist()
        box = max(left, 0.0), max(top, 0.0), min(right, picture.width), min(bottom, picture.height)
        if box[2] > box[0] and box[3] > box[1]:
            instances.append(Instance(box, float(result["scores"][index]), phrase))
    return instances
