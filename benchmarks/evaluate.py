"""Whether the metrics agree with the judge, and whether the watermark is detected.

Twelve adapters of three subjects (under-trained, good, over-trained, of another subject of the same class) draw the
same prompts. `metric.<name>.rank_correlation` is Spearman's, over adapters, of the metric's mean and the judge's own
axis: likeness metrics against the share of samples that show the subject, text metrics against the share that shows
what the prompt says. `metric.<name>.over_base` is the same of both sides relative to the untrained base on the same
prompts, since each subject has its own references and prompts. `watermark.detected` is the share detected after JPEG of
quality 80 and a crop of 10 %, of scenes passed through the autoencoder, as every sample is; `watermark.drawn.*` of the
scenes themselves, whose edges are sharper than any sample's.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from ..augmentation.images.load import load_picture
from ..core.atomic import write_whole
from ..core.context import RunContext
from ..core.images import open_picture
from ..core.statistics import wilson
from ..core.text.prompts import prompt_of
from ..core.values import Adapter, PromptSet
from ..evaluation.metrics.clip import ClipImage, ClipText
from ..evaluation.metrics.likeness import MaskedLikeness
from ..evaluation.metrics.metric import Metric
from ..evaluation.metrics.preference import HumanPreference, PickScore
from ..evaluation.samples import Candidate, DrawSettings, draw
from ..evaluation.watermark import add_watermark, has_watermark
from ..models.open import base_from_path, open_base
from ..pocket import gallery
from ..pocket.models import judge
from ..pocket.models.weights import WEIGHTS
from ..pocket.world import drawing, pictures, world
from ..vision.embedders.clip import Clip
from ..vision.segmenters import open_finder
from ..vision.segmenters.interface import Finder
from .harness.parallel import each
from .harness.rows import BenchmarkRow, Parts
from .harness.workshop import GUIDANCE, Workshop
from .harness.workshop import STEPS as SAMPLING_STEPS
from .subject.sets import prompt_checks, references

log = logging.getLogger(__name__)

STEPS, QUICK_STEPS = 1000, 60  # of the good adapters
# Each subject, and another one of its class.
PAIRS = (("cat_striped", "cat_patched"), ("bird_dotted", "bird_two"), ("fish_striped", "fish_patched"))
BASE, WRONG = "base", "wrong subject"
# Share of `STEPS` and other settings; the longest first, since they are trained in parallel.
KINDS: dict[str, tuple[float, dict[str, Any]]] = {
    "over-trained": (1.5, {"prior_weight": 0.0, "learning_rate": 1e-3}),
    "good": (1.0, {}),
    WRONG: (1.0, {}),
    "under-trained": (0.1, {}),
}
SUBJECT, PROMPT = "subject", "prompt"
PICTURES_PER_PROMPT = 6
MARKED, CLEAN = 300, 1000
GOAL = 0.9
ONE_CLIP = "ranks as clip_t: the pocket has one CLIP, so this tests the metric's code and not a model of its own"
NOTES = {
    "pickscore": ONE_CLIP,
    "hpsv2": ONE_CLIP,
    "clip_i": "metric.dino is left out: the pocket holds no DINO",
}


@dataclass(frozen=True)
class AdapterScores:
    """Means over one adapter's samples: the judge's by axis, and the metrics'."""

    judged: dict[str, float]
    measured: dict[str, float]

    def relative_to(self, base: AdapterScores) -> AdapterScores:
        return AdapterScores(
            {name: value - base.judged[name] for name, value in self.judged.items()},
            {name: value - base.measured[name] for name, value in self.measured.items()},
        )


@dataclass(frozen=True)
class MetricBenchmark:
    """The adapters and their samples; the workshop saves everything on disk."""

    shop: Workshop
    quick: bool

    @property
    def count(self) -> int:
        return 1 if self.quick else PICTURES_PER_PROMPT

    def adapter(self, subject: str, kind: str) -> Adapter:
        """Trained now, or read from disk."""
        share, settings = KINDS[kind]
        made = references(self.shop.sets, dict(PAIRS)[subject] if kind == WRONG else subject)
        if settings.get("prior_weight", 1.0):
            made = self.shop.with_priors(made)
        steps = max(1, round(share * self.shop.steps))
        return self.shop.train(made, steps=steps, **settings)

    def score(self, subject: str, kind: str) -> AdapterScores:
        """Samples of the adapter of this kind, or of the base, judged and measured; every sample has its own seed."""
        one, noun = references(self.shop.sets, subject), pictures.subject_named(subject).thing.noun
        candidate = Candidate(BASE) if kind == BASE else Candidate(kind, self.adapter(subject, kind))
        checks = prompt_checks(noun, f"sks {noun}")
        prompts = [prompt_of(check.prompt, one.concepts) for check in checks]
        rows = []
        for number, prompt in enumerate(prompts):
            settings = DrawSettings(self.count, number * self.count, SAMPLING_STEPS, GUIDANCE, batch=self.count)
            context = RunContext(self.shop.folder / "samples", self.shop.device)
            rows += draw(self.shop.base, [candidate], PromptSet((prompt,)), settings, context)
        name = f"evaluate_{subject}_{kind.replace(' ', '_')}"
        self._save_sheet(name, rows, [candidate.text(prompt) for prompt in prompts])
        images = [image for row in rows for image in row]
        checked = [pair for pair in zip(checks, prompts, strict=True) for _ in range(self.count)]
        readings = self.shop.judge.readings(images)[0]
        doubt = 1 - statistics.mean(self.shop.judge.agree(images))
        if doubt > 0.05:
            log.warning("the judges disagree on %.0f %% of the samples of %s, %s", 100 * doubt, subject, kind)
        judged = {
            SUBJECT: self.shop.judge.subject_fidelity(images, subject),
            PROMPT: statistics.mean(check.passes(r, noun) for (check, _), r in zip(checked, readings, strict=True)),
        }
        known = [load_picture(sample.image) for sample in one.references]
        scored = {
            name: float(metric.scores(images, [prompt for _, prompt in checked], known).mean())
            for name, (metric, _) in metrics(noun).items()
        }
        log.info("%s, %s: judged %s, measured %s", subject, kind, format_values(judged), format_values(scored))
        return AdapterScores(judged, scored)

    def _save_sheet(self, name: str, rows: Sequence[Sequence[Image.Image]], prompts: Sequence[str]) -> None:
        """A sheet of the samples beside those of other benches."""
        file = self.shop.folder / "readings" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        gallery.sheet([list(row) for row in rows]).save(file)
        write_whole(file.with_suffix(".json"), json.dumps({"prompts": list(prompts)}).encode())


def metrics(noun: str) -> dict[str, tuple[Metric, str]]:
    """The metrics on the pocket's CLIP, each with the judge's axis by which it must rank adapters."""
    clip, finder = Clip(WEIGHTS / "clip"), open_finder(WEIGHTS / "clipseg", torch.device("cpu"))
    return {
        "clip_t": (ClipText(clip), PROMPT),
        "pickscore": (PickScore(clip), PROMPT),
        "hpsv2": (HumanPreference(clip), PROMPT),
        "clip_i": (ClipImage(clip), SUBJECT),
        "masked_clip_i": (MaskedLikeness(clip, segmenter(finder, noun), "CLIP-I"), SUBJECT),
    }


def segmenter(finder: Finder, noun: str) -> Callable[[Image.Image], Image.Image | None]:
    """Segments the detection of the noun with the highest score."""

    def segment(picture: Image.Image) -> Image.Image | None:
        detections = [one for one in finder.find(picture, [noun], finder.threshold) if one.mask is not None]
        if not detections:
            return None
        best = max(detections, key=lambda one: one.score)
        return Image.fromarray((np.asarray(best.mask) * 255).astype(np.uint8))

    return segment


def score_adapter(quick: bool, adapter: tuple[str, str]) -> AdapterScores:
    """Scores of a subject's adapter of some kind, for a process of its own."""
    return MetricBenchmark(Workshop(steps=QUICK_STEPS if quick else STEPS), quick).score(*adapter)


def correlations(quick: bool) -> list[BenchmarkRow]:
    """Rows of each metric, with intervals by resampling adapters."""
    subjects = [subject for subject, _ in PAIRS[: 1 if quick else None]]
    adapters = [(subject, kind) for kind in (*KINDS, BASE) for subject in subjects]
    scores = dict(zip(adapters, each(partial(score_adapter, quick), adapters), strict=True))
    for kind in (*KINDS, BASE):
        for axis in (SUBJECT, PROMPT):
            means = {subject: scores[subject, kind].judged[axis] for subject in subjects}
            log.info("%s: %s fidelity %s", kind, axis, format_values(means))
    trained = [adapter for adapter in adapters if adapter[1] != BASE]
    plain = [scores[adapter] for adapter in trained]
    relative = [scores[adapter].relative_to(scores[adapter[0], BASE]) for adapter in trained]
    return [*rank_rows(plain, "rank_correlation", None if quick else GOAL), *rank_rows(relative, "over_base", None)]


def rank_rows(scores: Sequence[AdapterScores], title: str, goal: float | None) -> list[BenchmarkRow]:
    """`metric.<name>.<title>` over the scores of all adapters."""
    rows = []
    for name, (_, axis) in metrics(next(iter(world.CLASSES))).items():
        pairs = [(one.measured[name], one.judged[axis]) for one in scores]
        value, ends = rank_correlation(pairs)
        full, note = f"metric.{name}.{title}", NOTES.get(name, "")
        rows.append(BenchmarkRow(full, value, "rho", "higher", goal, ends, len(pairs), note))
    return rows


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


def format_values(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


# ------------------------------------------------------------------------------------------------------ watermark


def degraded(picture: Image.Image, seed: int) -> Image.Image:
    """A tenth of each side cut away somewhere, then JPEG of quality 80."""
    rng = world.rng_of(95, seed)
    width, height = (int(0.9 * side) for side in picture.size)
    left, top = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
    data = io.BytesIO()
    picture.crop((left, top, left + width, top + height)).save(data, "JPEG", quality=80)
    return open_picture(data)


@torch.no_grad()
def through_autoencoder(scenes: Sequence[Image.Image]) -> list[Image.Image]:
    """The scenes encoded and decoded by the pocket's autoencoder, as a sample of them would look."""
    copies = []
    with open_base(base_from_path(WEIGHTS), "cpu") as model:
        for start in range(0, len(scenes), 50):
            mean, _ = model.encode_images(judge.as_tensor(scenes[start : start + 50]) / 2 + 0.5)
            made = model.decode(mean).permute(0, 2, 3, 1)
            copies += [Image.fromarray(values.numpy()) for values in (made * 255).round().to(torch.uint8)]
    return copies


def watermark(quick: bool) -> list[BenchmarkRow]:
    """The share of marked pictures detected after degradation, and of clean pictures falsely detected."""
    marks, clean = (MARKED // 10, CLEAN // 10) if quick else (MARKED, CLEAN)
    scenes = [drawing.render(world.scene_of(94, number))[0] for number in range(clean)]
    rows = []
    for name, made in (("watermark", through_autoencoder(scenes)), ("watermark.drawn", scenes)):
        detections = [
            has_watermark(degraded(add_watermark(picture), number)) for number, picture in enumerate(made[:marks])
        ]
        goal = None if quick or made is scenes else 0.01
        rows.append(_share(f"{name}.detected", detections, "higher", None))
        rows.append(_share(f"{name}.false", [has_watermark(picture) for picture in made], "lower", goal))
    return rows


def _share(name: str, values: Sequence[bool], better: Any, goal: float | None) -> BenchmarkRow:
    interval = wilson(sum(values), len(values))
    assert interval.low is not None and interval.high is not None
    return BenchmarkRow(name, interval.mean, "share", better, goal, (interval.low, interval.high), len(values))


def parts(quick: bool) -> Parts:
    return {"watermark": partial(watermark, quick), "correlations": partial(correlations, quick)}
