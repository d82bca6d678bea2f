"""The figures that the pocket's weights must reach, measured on held-out scenes and prompts."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from transformers import CLIPModel, CLIPSegForImageSegmentation, CLIPTokenizer

from ..models import sampling
from ..models.open import base_from_path, open_base
from .models import judge, likeness
from .models.weights import WEIGHTS
from .world import world
from .world.drawing import render
from .world.scene_batches import SceneBatches, to_signed

log = logging.getLogger(__name__)
SCENES, PROMPTS = 71, 72  # held-out streams
STEPS, GUIDANCE = 30, 3.0
GOALS = {
    "reader.true.class": 0.99,
    "reader.true.place": 0.99,
    "reader.true.relation": 0.98,
    "reader.true.pattern": 0.97,
    "reader.reconstruction.class": 0.95,
    "reader.reconstruction.pattern": 0.95,
    "readers.agree": 0.95,
    "autoencoder.psnr": 29.0,
    "one.class": 0.85,
    "one.colour": 0.90,
    "one.place": 0.95,
    "two.things": 0.70,
    "two.relation": 0.70,
    "clip.top1": 0.80,
    "clipseg.iou": 0.85,
    "sample32.seconds": 15.0,
}


def row(name: str, values, unit: str = "share", better: str = "higher") -> dict:
    """A row of the table: mean of `values`, with the normal approximation's 95 % interval of the mean."""
    values = np.asarray(values, float)
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    interval = [round(mean - half, 4), round(mean + half, 4)] if len(values) > 1 else None
    result = {"name": name, "value": round(mean, 4), "unit": unit, "better": better, "goal": GOALS.get(name)}
    return {**result, "interval": interval, "n": len(values)}


def reading_rows(prefix: str, readings: list[judge.SceneReading], scenes: list[world.Scene], answers) -> list[dict]:
    """Shares of scenes whose every thing's class or pattern, whose place, or whose layout is read right."""
    pairs = list(zip(readings, scenes, strict=True))
    right = {
        "class": [[t.noun for t in r.things] == [t.noun for t in s.things] for r, s in pairs],
        "pattern": [[t.pattern for t in r.things] == [t.pattern for t in s.things] for r, s in pairs],
        "place": [r.place == s.place for r, s in pairs],
        "relation": [r.layout == s.layout for r, s in pairs],
    }
    return [row(f"{prefix}.{answer}", right[answer]) for answer in answers]


@torch.no_grad()
def truth_rows(weights: Path, count: int) -> list[dict]:
    """The autoencoder and the readers on held-out scenes and on their reconstructions."""
    scenes, pictures, _ = SceneBatches(SCENES, count)[0]
    pictures = to_signed(pictures)
    vae = AutoencoderKL.from_pretrained(weights / "vae", torch_dtype=torch.float32).eval()
    copies = torch.cat([vae.decode(vae.encode(p).latent_dist.mean).sample.clamp(-1, 1) for p in pictures.split(64)])
    psnr = 10 * torch.log10(4 / (copies - pictures).square().mean((1, 2, 3)))
    reader = judge.SubjectJudge(weights).readers[0]
    rows = reading_rows("reader.true", judge.read(reader, pictures), scenes, ("class", "place", "relation", "pattern"))
    rows += reading_rows("reader.reconstruction", judge.read(reader, copies), scenes, ("class", "pattern"))
    return [*rows, row("autoencoder.psnr", psnr.numpy(), "dB")]


def held_out_prompts(count: int, two: bool) -> tuple[list[world.Scene], list[str]]:
    """Held-out prompts that name looks and place, and the scenes that they describe."""
    scenes, prompts, index = [], [], 0
    while len(prompts) < count:
        rng = world.rng_of(PROMPTS, index)
        scene = world.random_scene(rng, two=1.0 if two else 0.0, hidden=0.0)
        scenes.append(scene)
        prompts.append(world.caption(scene, rng, with_look=1.0, placed=1.0, and_share=0.0))
        index += 1
    return scenes, prompts


def pictures_of(model, prompts: list[str], first_seed: int = 0) -> list[Image.Image]:
    """Sample one picture a prompt."""
    seeds = range(first_seed, first_seed + len(prompts))
    settings = {"width": world.SIZE, "height": world.SIZE, "steps": STEPS, "guidance": GUIDANCE, "batch": 32}
    images = sampling.sample(model, prompts, list(seeds), **settings)
    arrays = (images.permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
    return [Image.fromarray(a) for a in arrays]


def one_rows(readings, scenes) -> list[dict]:
    """Prompts with one thing: class, colours, place, pattern and accessory of the first thing read."""
    things = [(r.things[0] if r.things else None, s.things[0]) for r, s in zip(readings, scenes, strict=True)]
    return [
        row("one.class", [bool(t) and t.noun == w.noun for t, w in things]),
        row("one.colour", [bool(t) and t.colours == frozenset(w.colours) for t, w in things]),
        row("one.place", [r.place == s.place for r, s in zip(readings, scenes, strict=True)]),
        row("one.pattern", [bool(t) and t.pattern == w.pattern for t, w in things]),
        row("one.accessory", [bool(t) and t.accessory == w.accessory for t, w in things]),
    ]


def relation_right(reading: judge.SceneReading, scene: world.Scene) -> bool:
    """Whether the layout is the prompt's, with the two classes in its order (any order side by side)."""
    nouns, wanted = [t.noun for t in reading.things], [t.noun for t in scene.things]
    ordered = nouns == wanted or (scene.layout == "beside" and nouns == wanted[::-1])
    return reading.layout == scene.layout and ordered


def sample_rows(weights: Path, count: int) -> list[dict]:
    """Readings of samples of `count` prompts, half with one thing and half with two, and the time of 32 samples."""
    judged = judge.SubjectJudge(weights)
    with open_base(base_from_path(weights), torch.device("cpu")) as model:
        (ones, one_prompts), (twos, two_prompts) = (
            held_out_prompts(count // 2, False),
            held_out_prompts(count // 2, True),
        )
        one, two = pictures_of(model, one_prompts), pictures_of(model, two_prompts, 10_000)
        started = time.perf_counter()
        pictures_of(model, one_prompts[:32])
        seconds = time.perf_counter() - started
    rows = one_rows(judged.readings(one)[0], ones)
    readings = judged.readings(two)[0]
    pairs = list(zip(readings, twos, strict=True))
    rows.append(
        row("two.things", [sorted(t.noun for t in r.things) == sorted(t.noun for t in s.things) for r, s in pairs])
    )
    rows.append(row("two.relation", [relation_right(r, s) for r, s in pairs]))
    rows.append(row("readers.agree", judged.agree([*one, *two])))
    return [*rows, row("sample32.seconds", [seconds], "s", "lower")]


@torch.no_grad()
def clip_rows(weights: Path, batches: int) -> list[dict]:
    """Which of 64 distinct captions is a picture's own, by the CLIP."""
    clip = CLIPModel.from_pretrained(weights / "clip", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "clip")
    right: list[bool] = []
    for number in range(batches):
        scenes, captions, index = [], [], 0
        while len(captions) < 64:
            rng = world.rng_of(SCENES + 2, number * 1000 + index)
            scene = world.random_scene(rng)
            caption = world.caption(scene, rng, with_look=1.0, placed=1.0, named_hidden=True, and_share=0.0)
            index += 1
            if caption not in captions:
                scenes.append(scene)
                captions.append(caption)
        tokens = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pictures = judge.as_tensor([render(s)[0] for s in scenes])
        logits = clip(input_ids=tokens, pixel_values=pictures).logits_per_image
        right += (logits.argmax(1) == torch.arange(64)).tolist()
    return [row("clip.top1", right)]


@torch.no_grad()
def clipseg_rows(weights: Path, count: int) -> list[dict]:
    """Intersection over union of the predicted mask of "a cat" with the true one, per thing of held-out scenes."""
    model = CLIPSegForImageSegmentation.from_pretrained(weights / "clipseg", torch_dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(weights / "clipseg")
    scenes, pictures, masks = SceneBatches(SCENES + 1, count, masked=True)[0]
    phrases = [f"a {s.things[0].noun}" for s in scenes]
    tokens = tokenizer(phrases, padding="max_length", truncation=True, return_tensors="pt").input_ids
    chunks = zip(to_signed(pictures).split(64), tokens.split(64), strict=True)
    predicted = likeness.full_size(torch.cat([model(pixel_values=p, input_ids=t).logits for p, t in chunks])) > 0
    true = masks[:, 0] > 0
    union = (predicted | true).sum((1, 2)).clamp(min=1)
    return [row("clipseg.iou", ((predicted & true).sum((1, 2)) / union).numpy(), "IoU")]


def measure(weights: Path = WEIGHTS, quick: bool = False) -> list[dict]:
    """All rows; logs each with its goal."""
    count = 64 if quick else 512
    rows = truth_rows(weights, count) + sample_rows(weights, count)
    for part, measured in (
        ("clip", lambda: clip_rows(weights, count // 64)),
        ("clipseg", lambda: clipseg_rows(weights, count)),
    ):
        if (weights / part).is_dir():
            rows += measured()
        else:
            log.warning("no rows for %s: it is not among the weights; train it with --part %s", part, part)
    for one in rows:
        log.info("%-30s %9.4f  goal %s", one["name"], one["value"], one["goal"])
    return rows
