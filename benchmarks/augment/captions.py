"""Rows of the bench `augment` on words and masks: segmentation, gallery, grammar, validator."""

from __future__ import annotations

import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ...augmentation.captions.grammar import relation_captions
from ...augmentation.captions.nouns import KINDS
from ...augmentation.captions.parse import parts_of
from ...augmentation.captions.rules import RelationRules
from ...augmentation.gallery.index import Gallery
from ...augmentation.images.load import load_mask, stored_picture
from ...augmentation.masks.segment import SegmentSettings, segment
from ...core.values import Concept, Sample, TrainingSet
from ...models.public_names import PROMPT_NODE
from ...pocket.models.weights import WEIGHTS
from ...pocket.world import drawing, world
from ...vision.segmenters import open_finder
from ..harness.rows import BenchmarkRow
from ..harness.statistics import median_interval
from ..relation.report_captions import CAT, LEAKING, POT

SCENES = 610  # the held-out stream of scenes
FLAVOURS = "dusk,noon,rain,snow,fog,spring,autumn,neon,marble,velvet,oil,ink,film,macro,aerial,pastel".split(",")
SUBJECTS = [noun for nouns in KINDS.values() for noun in nouns.split()]


def parts(quick: bool) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    """`segment.*`, `gallery.*`, `grammar.*` and `validator.*`."""
    return {
        "segment": lambda: segment_rows(quick),
        "gallery": lambda: gallery_rows(10_000 if not quick else 500, quick),
        "grammar": lambda: [grammar_row(quick)],
        "validator": validator_rows,
    }


def segment_rows(quick: bool) -> list[BenchmarkRow]:
    """Intersection over union of the masks that `segment` writes for the class noun with the true ones, on the pocket's
    held-out scenes; a picture without a detection counts 0.

    Raises RuntimeError where the pocket's CLIPSeg is not among its weights.
    """
    folder = WEIGHTS / "clipseg"
    if not (folder / "config.json").is_file():
        raise RuntimeError("segment.iou needs the pocket's CLIPSeg; train it with --part clipseg")
    with tempfile.TemporaryDirectory() as scratch:
        given, true = scenes(32 if quick else 256, Path(scratch))
        finder = open_finder(folder, torch.device("cpu"))
        made, _ = segment(given, finder, None, SegmentSettings(missing="no mask"), Path(scratch))
        ious = [
            0.0 if sample.mask is None else _iou(np.asarray(load_mask(sample.mask)) >= 128, mask)
            for sample, mask in zip(made.samples, true, strict=True)
        ]
    things = [len(world.scene_of(SCENES, index).things) for index in range(len(ious))]
    alone = [value for value, count in zip(ious, things, strict=True) if count == 1]
    note = f"{np.mean(alone):.3f} on the {len(alone)} with one thing; beside another its mask may cover both"
    draws = np.random.default_rng(0).choice(ious, (2000, len(ious))).mean(1)
    interval = float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))
    goal = None if quick else 0.85
    return [BenchmarkRow("segment.iou", float(np.mean(ious)), "IoU", "higher", goal, interval, len(ious), note)]


def scenes(count: int, folder: Path) -> tuple[TrainingSet, list[np.ndarray]]:
    """Held-out scenes as a set in which each noun is a subject, and the true mask (H, W) bool of their first thing."""
    samples, masks, concepts = [], [], {}
    for index in range(count):
        scene = world.scene_of(SCENES, index)
        picture, drawn = drawing.render(scene)
        number = concepts.setdefault(scene.things[0].noun, len(concepts))
        samples.append(Sample(stored_picture(picture, folder, stem=str(index)), "", concept=number))
        masks.append(np.asarray(drawn[0]) > 0)
    return TrainingSet(tuple(samples), tuple(Concept(f"sks{n}", noun) for noun, n in concepts.items())), masks


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


class FakeClipEmbedder:
    """Unit embeddings of a CLIP's width that are the same for the same text."""

    model_id, width = "bench", 512

    def images(self, images):
        raise RuntimeError("the pictures' embeddings lie in the index, so that none is computed; the row is void")

    def texts(self, texts):
        seeds = [sum(text.encode()) for text in texts]
        rows = [torch.randn(self.width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def gallery_rows(count: int, quick: bool) -> list[BenchmarkRow]:
    """Seconds to index `count` pictures, scaled to 10,000, and milliseconds of processor time of the slowest
    kind of search."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "made")
        write_gallery(folder, count)
        gallery = Gallery(folder, Path(scratch, "index.sqlite"))
        began = time.perf_counter()
        update = gallery.update()
        seconds = (time.perf_counter() - began) * 10_000 / count
        if update.with_prompt != count:
            raise RuntimeError(f"{update.with_prompt} of {count} prompts were read; the row is void")
        write_embeddings(gallery.file)
        kinds = {name: _times(search) for name, search in searches(gallery).items()}
    medians = {name: float(np.median(times)) for name, times in kinds.items()}
    slowest = max(medians, key=lambda name: medians[name])
    note = ", ".join(f"{name} {value:.0f}" for name, value in medians.items())
    times = kinds[slowest]
    goals = (None, None) if quick else (300.0, 100.0)
    return [
        BenchmarkRow("gallery.index_10k_seconds", seconds, "s", "lower", goals[0], None, count),
        BenchmarkRow(
            "gallery.query_ms", medians[slowest], "ms", "lower", goals[1], median_interval(times), len(times), note
        ),
    ]


def searches(gallery: Gallery) -> dict[str, Callable[[int], object]]:
    """Kinds of search by names. "a" and "number" are in every prompt, so that two rankings of all are fused."""
    embedder = FakeClipEmbedder()
    return {
        "words": lambda n: gallery.search(FLAVOURS[n % len(FLAVOURS)] if n % 2 else SUBJECTS[n]),
        "look": lambda n: gallery.search(clip=embedder, like=SUBJECTS[n]),
        "both": lambda n: gallery.search("a number", embedder, SUBJECTS[n]),
    }


def _times(search: Callable[[int], object]) -> list[float]:
    times = []
    for number in range(20):
        began = time.process_time()  # other programs on the machine are not the index's fault
        search(number)
        times.append(1000 * (time.process_time() - began))
    return times


def write_embeddings(file: Path) -> None:
    """Write an embedding for each picture of the index, as after a first search by look."""
    rng = np.random.default_rng(0)
    with closing(sqlite3.connect(file)) as base, base:
        numbers = [row[0] for row in base.execute("SELECT id FROM prompts")]
        vectors = rng.normal(size=(len(numbers), FakeClipEmbedder.width))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        rows = [(n, FakeClipEmbedder.model_id, vector.tobytes()) for n, vector in zip(numbers, vectors, strict=True)]
        base.executemany("INSERT INTO likeness VALUES(?, ?, ?)", rows)


def write_gallery(folder: Path, count: int) -> None:
    """`count` pictures of 512 x 512 with prompts as ComfyUI and, every other one, as A1111 writes them.

    Their pixels are flat: the index reads metadata and decodes no pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, picture = random.Random(0), Image.new("RGB", (512, 512), "grey")
    for number in range(count):
        about = PngImagePlugin.PngInfo()
        words = " ".join(rng.choices(FLAVOURS, k=5))
        prompt = f"a {SUBJECTS[number % len(SUBJECTS)]} number {number}, {words}"
        if number % 2:
            about.add_text("parameters", f"{prompt}\nNegative prompt: blurry\nSteps: 20, Seed: {number}, Size: 512x512")
        else:
            graph = {
                "1": {"class_type": PROMPT_NODE, "inputs": {"text": prompt}},
                "2": {"class_type": "KSampler", "inputs": {"seed": number, "steps": 20, "positive": ["1", 0]}},
            }
            about.add_text("prompt", json.dumps(graph))
        picture.save(folder / f"{number:05d}.png", pnginfo=about, compress_level=1)


def grammar_row(quick: bool) -> BenchmarkRow:
    """The fewest distinct good captions over random pairs of nouns, of 16 requested."""
    rng, fewest = random.Random(1), 16
    pairs = 20 if quick else 300
    for seed in range(pairs):
        original = " <R> ".join(rng.sample(SUBJECTS, 2))
        rules = RelationRules.of("<R>", original)
        captions = relation_captions(parts_of(original, "<R>"), rules, 16, seed)
        fewest = min(fewest, len({c for c in captions if rules.check(c).good}))
    return BenchmarkRow("grammar.distinct_captions", fewest, "captions", "higher", None if quick else 12, None, pairs)


def validator_rows() -> list[BenchmarkRow]:
    """The report's own captions: how many leaking ones are rejected as leaks, how many originals are accepted."""
    reasons = [RelationRules.of("<R>", original).check(caption).reason for original, caption, _ in LEAKING]
    caught = [
        reason.startswith("leak") and word in reason for reason, (_, _, word) in zip(reasons, LEAKING, strict=True)
    ]
    accepted = [
        RelationRules.of("<R>", one).check(caption).good for one, captions in (CAT, POT) for caption in captions
    ]
    return [
        BenchmarkRow("validator.leaks_caught", 100 * float(np.mean(caught)), "%", "higher", 100, None, len(caught)),
        BenchmarkRow(
            "validator.originals_kept", 100 * float(np.mean(accepted)), "%", "higher", 100, None, len(accepted)
        ),
    ]
