"""Thirty random streams, by the strings that name them in training: a run that was cut goes on with their numbers."""

from __future__ import annotations

import hashlib

from comfyui_fewshot.core.randomness import Randomness, seed_of

SEED, STEP, SAMPLES, SHAPE = 17, 3, (0, 1, 5), (4, 3, 5)
NORMAL = (
    "reference/latent", "reference/noise", "reference/offset", "prior/latent", "prior/noise", "prior/offset",
    "refine/start", "refine/noise/0", "refine/noise/7", "refine/noising/0", "refine/noising/3", "explained/noise",
    "adversarial/latent", "adversarial/real", "adversarial/fake",
)  # fmt: skip
INTEGERS = ("reference/timestep", "prior/timestep", "refine/timestep/0", "refine/timestep/3", "adversarial/level")
CHOICES = ("reference/picture", "prior/picture", "adversarial/picture")


def exact() -> dict[str, list]:
    """Numbers that are the same on every processor: counters, hashes, integers, choices."""
    random = Randomness(SEED)
    found: dict[str, list] = {}
    for stream in INTEGERS:
        found[stream] = random.integers(stream, STEP, SAMPLES, 1000).tolist()
    for stream in CHOICES:
        found[stream] = [random.choose(stream, draw, (1.0, 2.5, 0.5)) for draw in range(12)]
    found["reference/timestep uniform"] = [_hash(random.uniform("reference/timestep", STEP, SAMPLES))]
    for stream in ("reference/dropped", "prior/dropped"):
        found[stream] = [random.happens(stream, STEP, sample, 0.3) for sample in range(12)]
    for stream in ("refine/prompts", "refine/places"):
        found[stream] = random.subset(stream, STEP, 1, 20, 6)
    for stream in ("reading", "alone", "validation"):
        found[f"seed of {stream}"] = [seed_of(stream, i) for i in range(3)]
    found["seed of steering"] = [seed_of(SEED, "steering", STEP, 1, i) for i in range(3)]
    found["seed of adversarial/change"] = [seed_of(SEED, "adversarial/change", STEP, 1, i) for i in range(4)]
    found["seed of discriminator"] = [seed_of(SEED, "discriminator")]
    return found


def normal() -> dict[str, list[float]]:
    """The first and the last numbers of normal streams."""
    random = Randomness(SEED)
    drawn = {stream: random.normal(stream, STEP, SAMPLES, SHAPE).flatten() for stream in NORMAL}
    return {stream: [round(float(x), 6) for x in (*values[:3], *values[-3:])] for stream, values in drawn.items()}


def _hash(values) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()
