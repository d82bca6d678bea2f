"""Whether the metrics say what the judge says, and whether the watermark is found.

Twelve adapters of three subjects (under-trained, good, over-trained, of another subject of the same class) draw the
same prompts. `metric.<name>.rank_correlation` is Spearman's, over adapters, of the metric's mean and the judge's own
axis: likeness metrics against the share of pictures that show the subject, text metrics against the share that shows
what was asked for. Each subject has its own references and prompts, so both sides are taken relative to the untrained
base on the same prompts. `watermark.detected` is the share found after JPEG of quality 80 and a crop of 10 %.
"""

from __future__ import annotations

import io
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from ..augmentation.pictures import load_picture
from ..augmentation.segmenters import open_finder
from ..evaluation.clip import Clip, ClipImage, ClipText
from ..evaluation.drawing import Candidate, DrawSettings, draw
from ..evaluation.likeness import MaskedLikeness
from ..evaluation.metrics import Metric, prompt_of
from ..evaluation.preference import HumanPreference, PickScore
from ..evaluation.votes import wilson
from ..evaluation.watermark import detected, marked
from ..models.values import Adapter, PromptSet
from ..pocket import drawing, pictures, world
from ..pocket.assemble import WEIGHTS
from . import Row
from ._subject_runs import GUIDANCE, STEPS, Workshop
from ._subject_sets import asks, references

log = logging.getLogger(__name__)

TRAINED = 240
"""steps of the good adapters"""
PAIRS = (("cat_striped", "cat_patched"), ("bird_dotted", "bird_two"), ("fish_striped", "fish_patched"))
"""each subject, and another one of its class"""
KINDS: dict[str, tuple[float, dict[str, Any]]] = {
    "under-trained": (0.1, {}),
    "good": (1.0, {}),
    "over-trained": (2.0, {"prior_weight": 0.0, "learning_rate": 1e-3}),
    "wrong subject": (1.0, {}),
}
"""the share of `TRAINED` steps and what else differs"""
SUBJECT, PROMPT = "subject", "prompt"
COUNT = 2  # pictures of each prompt
MARKED, CLEAN = 300, 1000
GOAL = 0.9


@dataclass(frozen=True)
class Seen:
    """What one adapter drew, as the judge and the metrics see it: means over its pictures, by axis and by metric."""

    judged: dict[str, float]
    measured: dict[str, float]

    def over(self, base: Seen) -> Seen:
        return Seen(
            {name: value - base.judged[name] for name, value in self.judged.items()},
            {name: value - base.measured[name] for name, value in self.measured.items()},
        )


class Bench:
    """The adapters, what they draw, and what is seen there; everything is kept on disk by the workshop."""

    def __init__(self, shop: Workshop, quick: bool):
        self.shop, self.quick = shop, quick
        self.pairs = PAIRS[: 1 if quick else None]
        clip = Clip(WEIGHTS / "clip")
        self.finder = open_finder(WEIGHTS / "clipseg", shop.device)
        self.metrics: dict[str, tuple[Callable[[str], Metric], str]] = {
            "clip_t": (lambda _: ClipText(clip), PROMPT),
            "pickscore": (lambda _: PickScore(clip), PROMPT),
            "hpsv2": (lambda _: HumanPreference(clip), PROMPT),
            "clip_i": (lambda _: ClipImage(clip), SUBJECT),
            "masked_clip_i": (lambda noun: MaskedLikeness(clip, self._segment(noun), "CLIP-I"), SUBJECT),
        }

    def _segment(self, noun: str) -> Callable[[Image.Image], Image.Image | None]:
        def segment(picture: Image.Image) -> Image.Image | None:
            found = [i for i in self.finder.find(picture, [noun], self.finder.threshold) if i.mask is not None]
            if not found:
                return None
            best = max(found, key=lambda one: one.score)
            return Image.fromarray((np.asarray(best.mask) * 255).astype(np.uint8))

        return segment

    def adapter(self, subject: str, kind: str) -> Adapter:
        """Trained, or read where it was trained before."""
        share, settings = KINDS[kind]
        steps = max(1, round(share * self.shop.steps))
        made = references(self.shop.sets, subject)
        if settings.get("prior_weight", 1.0):
            made = self.shop.with_priors(made)
        return self.shop.train(made, steps=steps, parameter_set="attention", **settings)

    def seen(self) -> list[Seen]:
        """Each adapter relative to the base, subject by subject."""
        found = []
        for subject, other in self.pairs:
            worn = {kind: self.adapter(other if kind == "wrong subject" else subject, kind) for kind in KINDS}
            candidates = [Candidate("base"), *(Candidate(kind, adapter) for kind, adapter in worn.items())]
            base, *rest = self._looked_at(subject, candidates)
            found += [one.over(base) for one in rest]
            for kind, one in zip(KINDS, rest, strict=True):
                log.info("%s, %s: judged %s, measured %s", subject, kind, *map(_said, (one.judged, one.measured)))
        return found

    def _looked_at(self, subject: str, candidates: Sequence[Candidate]) -> Iterator[Seen]:
        told = pictures.subject_named(subject)
        noun = told.thing.noun
        one = references(self.shop.sets, subject)
        wanted = asks(noun, f"sks {noun}")
        prompts = PromptSet(tuple(prompt_of(ask.prompt, one.concepts) for ask in wanted))
        settings = DrawSettings(count=1 if self.quick else COUNT, steps=STEPS, guidance=GUIDANCE, batch=32)
        drawn = draw(self.shop.base, candidates, prompts, settings, self.shop.folder / "samples", self.shop.device)
        known = [load_picture(sample.image) for sample in one.references]
        each = [number for number in range(len(wanted)) for _ in range(settings.count)]
        for images in drawn:
            readings = self.shop.judge.readings(images)[0]
            doubt = 1 - statistics.mean(self.shop.judge.agree(images))
            if doubt > 0.05:
                log.warning("the judges disagree on %.0f %% of the samples of %s", 100 * doubt, subject)
            judged = {
                SUBJECT: self.shop.judge.subject_fidelity(images, subject),
                PROMPT: statistics.mean(wanted[n].met(r, noun) for n, r in zip(each, readings, strict=True)),
            }
            asked = [prompts.prompts[n] for n in each]
            measured = {
                name: float(make(noun).scores(images, asked, known).mean()) for name, (make, _) in self.metrics.items()
            }
            yield Seen(judged, measured)

    def correlations(self) -> list[Row]:
        """A row for each metric, with its interval by resampling adapters."""
        seen = self.seen()
        found = []
        for name, (_, axis) in self.metrics.items():
            pairs = [(one.measured[name], one.judged[axis]) for one in seen]
            value, ends = rank_correlation(pairs)
            goal = None if self.quick else GOAL
            found.append(Row(f"metric.{name}.rank_correlation", value, "rho", "higher", goal, ends, len(pairs)))
        return found


def rank_correlation(
    pairs: Sequence[tuple[float, float]], draws: int = 1000
) -> tuple[float, tuple[float, float] | None]:
    """Spearman's rho of pairs and its 95 % bootstrap interval; 0 where one side never changes."""
    values = np.asarray(pairs)
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = [_rho(values[rng.integers(0, len(values), len(values))]) for _ in range(draws)]
    ends = tuple(np.quantile(drawn, (0.025, 0.975))) if len(values) > 4 else None
    return _rho(values), None if ends is None else (float(ends[0]), float(ends[1]))


def _rho(values: np.ndarray) -> float:
    if np.ptp(values[:, 0]) == 0 or np.ptp(values[:, 1]) == 0:
        return 0.0
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)


def _said(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


# ------------------------------------------------------------------------------------------------------ watermark


def worn(picture: Image.Image, seed: int) -> Image.Image:
    """A tenth of each side cut away somewhere, then JPEG of quality 80."""
    rng = world.lots(95, seed)
    width, height = (int(0.9 * side) for side in picture.size)
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    data = io.BytesIO()
    picture.crop((left, top, left + width, top + height)).save(data, "JPEG", quality=80)
    return Image.open(data)


def watermark(quick: bool) -> list[Row]:
    """The share of marked pictures that are found after wear, and of clean ones that are found all the same."""
    marks, clean = (MARKED // 10, CLEAN // 10) if quick else (MARKED, CLEAN)
    scenes = [drawing.render(world.scene_of(94, number))[0] for number in range(clean)]
    found = [detected(worn(marked(picture), number)) for number, picture in enumerate(scenes[:marks])]
    wrong = [detected(picture) for picture in scenes]
    goal = None if quick else 0.01
    return [_share("watermark.detected", found, "higher", None), _share("watermark.false", wrong, "lower", goal)]


def _share(name: str, values: Sequence[bool], better: Any, goal: float | None) -> Row:
    found = wilson(sum(values), len(values))
    assert found.low is not None and found.high is not None
    return Row(name, found.mean, "share", better, goal, (found.low, found.high), len(values))


def rows(quick: bool) -> list[Row]:
    found = watermark(quick)
    return found + Bench(Workshop(steps=60 if quick else TRAINED), quick).correlations()
