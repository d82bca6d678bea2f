"""A blind comparison in the report: one person says which of two pictures is better, and the page keeps count.

The three questions are those of InstructBooth's human study (Chae et al. 2023, section 5): which is more like the
subject, which follows the text better, which is better overall. Names are hidden, order and sides are random.
"""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from PIL import Image

from ...core.values import content_key
from ..result import Evaluation
from .blind_test_page import MARKUP, SCRIPT, STYLE

QUESTIONS = {
    "subject": "Which one shows the subject of the references better?",
    "text": "Which one follows the text better?",
    "overall": "Which one is better overall?",
}
REFERENCES = 4
QUALITY = 92
LARGEST = 512  # pixels of a picture's side in the page


@dataclass(frozen=True)
class Comparison:
    """A section of the report. `most` pairs at most, the same ones for the same evaluation."""

    evaluation: Evaluation
    most: int = 40
    heading: str = "Blind comparison"
    script: str = SCRIPT
    style: str = STYLE

    def html(self) -> str:
        data = json.dumps(self.data(), ensure_ascii=False).replace("<", "\\u003c")
        return MARKUP.replace("{data}", data)

    def data(self) -> dict[str, Any]:
        """What the page's script reads: pictures once each, and pairs of (prompt, picture, picture)."""
        samples, references = self.evaluation.samples, self.evaluation.references
        chosen = pairs_of(self.evaluation, self.most)
        pictures = {f"{c}.{n}": _inlined(samples.images[c][n]) for pair in chosen for c, n in (pair[:2], pair[2:])}
        texts = [prompt.stripped for prompt in samples.prompts]
        pairs = [
            {"a": f"{a}.{n}", "b": f"{b}.{m}", "text": texts[samples.groups[n]], "names": [a, b]}
            for a, n, b, m in chosen
        ]
        questions = [{"id": key, "text": text} for key, text in QUESTIONS.items() if key != "subject" or references]
        names = [candidate.name for candidate in samples.candidates]
        return {
            "key": content_key("votes", pairs, names, sorted(pictures.values()))[:24],
            "names": names,
            "questions": questions,
            "references": [_inlined(picture) for picture in references[:REFERENCES]],
            "pictures": pictures,
            "pairs": pairs,
        }


def pairs_of(evaluation: Evaluation, most: int) -> list[tuple[int, int, int, int]]:
    """(candidate, picture, candidate, picture) of the same prompt and seed: at most `most`, evenly over candidates."""
    both = list(combinations(range(len(evaluation.samples.candidates)), 2))
    count = len(evaluation.samples.groups)
    rng = np.random.Generator(np.random.PCG64(0))
    orders = [rng.permutation(count).tolist() for _ in both]
    turns = [(a, n, b, n) for turn in range(count) for (a, b), n in zip(both, (o[turn] for o in orders), strict=True)]
    return turns[:most]


def _inlined(image: Image.Image) -> str:
    """A data address; large pictures are reduced and kept as JPEG, small ones as they are."""
    data = io.BytesIO()
    if max(image.size) <= 128:
        image.convert("RGB").save(data, "PNG")
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    small = image.convert("RGB")
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    small.save(data, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
