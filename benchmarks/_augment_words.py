"""Rows of the bench `augment` on words and masks: segmentation, gallery, grammar, validator."""

from __future__ import annotations

import json
import logging
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ..augmentation.caption_grammar import relation_captions
from ..augmentation.caption_parts import parts_of
from ..augmentation.caption_rules import RelationRules
from ..augmentation.gallery import Gallery
from ..augmentation.mask_cleaning import cleaned
from ..augmentation.nouns import KINDS
from ..augmentation.segmenters import open_finder
from ..pocket import assemble, drawing, world
from . import Row, median_interval
from ._report_captions import CAT, LEAKING, POT

log = logging.getLogger(__name__)
SCENES = 610  # the stream of scenes that no model was trained on
FLAVOURS = "dusk,noon,rain,snow,fog,spring,autumn,neon,marble,velvet,oil,ink,film,macro,aerial,pastel".split(",")
SUBJECTS = [noun for nouns in KINDS.values() for noun in nouns.split()]


def rows(quick: bool) -> list[Row]:
    """`segment.*`, `gallery.*`, `grammar.*` and `validator.*`."""
    return [*segment_rows(quick), *gallery_rows(quick), grammar_row(quick), *validator_rows()]


def segment_rows(quick: bool) -> list[Row]:
    """Intersection over union of the cleaned mask for "a cat" with the true one, on the pocket's held-out scenes."""
    folder = assemble.WEIGHTS / "clipseg"
    if not (folder / "config.json").is_file():
        log.warning("no row segment.iou: the pocket's CLIPSeg is not among its weights; train it with --part clipseg")
        return []
    finder, found = open_finder(folder, torch.device("cpu")), []
    for index in range(32 if quick else 256):
        scene = world.scene_of(SCENES, index)
        picture, masks = drawing.render(scene)
        true = np.asarray(masks[0]) > 0
        (instance,) = finder.find(picture, [f"a {scene.things[0].noun}"], finder.threshold)
        assert instance.mask is not None
        mask = cleaned(instance.mask)
        found.append(float((mask & true).sum() / max((mask | true).sum(), 1)))
    draws = np.random.default_rng(0).choice(found, (2000, len(found))).mean(1)
    interval = float(np.quantile(draws, 0.025)), float(np.quantile(draws, 0.975))
    goal = None if quick else 0.85
    return [Row("segment.iou", float(np.mean(found)), "IoU", "higher", goal, interval, len(found))]


def gallery_rows(quick: bool) -> list[Row]:
    """Seconds to index 10,000 pictures (scaled up from fewer in a quick run), milliseconds of a keyword search."""
    count = 500 if quick else 10_000
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "made")
        write_gallery(folder, count)
        gallery = Gallery(folder, Path(scratch, "index.sqlite"))
        began = time.perf_counter()
        update = gallery.update()
        seconds = (time.perf_counter() - began) * 10_000 / count
        assert update.with_prompt == count
        times = []
        for number in range(20):
            began = time.perf_counter()
            gallery.search(FLAVOURS[number % len(FLAVOURS)] if number % 2 else SUBJECTS[number])
            times.append(1000 * (time.perf_counter() - began))
    median = float(np.median(times))
    return [
        Row("gallery.index_10k_seconds", seconds, "s", "lower", None if quick else 300, None, count),
        Row("gallery.query_ms", median, "ms", "lower", None if quick else 100, median_interval(times), len(times)),
    ]


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
                "1": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt}},
                "2": {"class_type": "KSampler", "inputs": {"seed": number, "steps": 20, "positive": ["1", 0]}},
            }
            about.add_text("prompt", json.dumps(graph))
        picture.save(folder / f"{number:05d}.png", pnginfo=about, compress_level=1)


def grammar_row(quick: bool) -> Row:
    """The fewest distinct good captions over random pairs of nouns, of 16 asked for."""
    rng, fewest = random.Random(1), 16
    pairs = 20 if quick else 300
    for seed in range(pairs):
        own = " <R> ".join(rng.sample(SUBJECTS, 2))
        rules = RelationRules.of("<R>", own)
        captions = relation_captions(parts_of(own, "<R>"), rules, 16, seed)
        fewest = min(fewest, len({c for c in captions if rules.check(c).good}))
    return Row("grammar.distinct_captions", fewest, "captions", "higher", None if quick else 12, None, pairs)


def validator_rows() -> list[Row]:
    """The report's own captions: how many leaking ones are refused as leaks, how many originals are kept."""
    reasons = [RelationRules.of("<R>", own).check(caption).reason for own, caption, _ in LEAKING]
    caught = [
        reason.startswith("leak") and word in reason for reason, (_, _, word) in zip(reasons, LEAKING, strict=True)
    ]
    kept = [RelationRules.of("<R>", own).check(caption).good for own, captions in (CAT, POT) for caption in captions]
    return [
        Row("validator.leaks_caught", 100 * float(np.mean(caught)), "%", "higher", 100, None, len(caught)),
        Row("validator.originals_kept", 100 * float(np.mean(kept)), "%", "higher", 100, None, len(kept)),
    ]
