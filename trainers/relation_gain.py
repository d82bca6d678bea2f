"""Whether a learned word explains its pictures: their error with it against that with the word it began as."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from ..models.loading import Networks, open_base
from ..models.merging import applied
from ..models.text import Conditioning, denoise, encode_prompts
from ..models.values import Adapter, BaseModelRef, TrainingSet
from ..models.watching import Watcher
from .cache import build_pool
from .halves import rows_of
from .losses import squared_error
from .randomness import Randomness
from .relation_settings import RelationSettings
from .timesteps import drawn_times, relation_focal

log = logging.getLogger(__name__)

DRAWS, AT_ONCE = 64, 8


@torch.no_grad()
def explained(
    base: BaseModelRef,
    pictures: TrainingSet,
    adapter: Adapter,
    settings: RelationSettings,
    device: torch.device | str,
    watcher: Watcher,
    tokenizer_folder: Path | None = None,
) -> tuple[float, float]:
    """The share of the error that the word takes away, and its standard error; below zero where it makes it worse.

    Both sides see the same pictures, timesteps and noise. Small numbers are usual: a caption says little of a noisy
    picture's noise, and a relation is a part of the caption.
    """
    word = pictures.concepts[0].identifier
    with open_base(base, torch.device(device), watcher, tokenizer_folder=tokenizer_folder) as networks:
        side = settings.resolution or networks.resolution
        pool = build_pool(networks, pictures.references, side, watcher, live_text=True)
        captions = (
            [caption.replace(word, settings.token_start) for caption in pool.prompts],
            list(pool.prompts),
        )
        with applied(networks, [(adapter, 1.0)]):
            told = [encode_prompts(networks, texts) for texts in captions]
        random = Randomness(settings.seed, networks.device)
        probabilities = relation_focal(len(networks.schedule), settings.focal)
        errors = []
        for first in range(0, DRAWS, AT_ONCE):
            watcher.check()
            samples = range(first, first + AT_ONCE)
            picks = [random.choose("explained/picture", i, pool.weights) for i in samples]
            clean = rows_of(pool.mean, picks)
            noise = random.normal("explained/noise", 0, samples, clean.shape[1:])
            times = drawn_times(random, "explained/timestep", 0, samples, probabilities)
            noisy = networks.schedule.add_noise(clean, noise, times)
            target = networks.schedule.target(clean, noise, times)
            sizes = None if pool.sizes is None else rows_of(pool.sizes, picks)
            errors.append([_error(networks, noisy, times, rows.take(picks), sizes, target) for rows in told])
    before, after = (torch.cat([pair[i] for pair in errors]) for i in (0, 1))
    gained = (before - after) / before.mean()
    return float(gained.mean()), float(gained.std() / math.sqrt(len(gained)))


def _error(
    networks: Networks,
    noisy: torch.Tensor,
    times: torch.Tensor,
    conditioning: Conditioning,
    sizes: torch.Tensor | None,
    target: torch.Tensor,
) -> torch.Tensor:
    return squared_error(denoise(networks, noisy, times, conditioning, sizes), target)


def warned(share: float, error: float, start: str) -> str:
    """A line on what `explained` found; a warning where the word says no more than the one it began as."""
    if share > 2 * error:
        return f"the word takes {100 * share:.2f} % of the error that '{start}' in its place leaves"
    said = (
        f"the word explains the pictures no better than '{start}' in its place ({100 * share:.2f} % less error, "
        f"give or take {200 * error:.2f}): they may not share a relation, or more steps are needed"
    )
    log.warning("%s", said)
    return said
