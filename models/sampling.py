"""Pictures from prompts: deterministic DDIM (Song et al. 2021, eq. 12 with eta 0) on ComfyUI's timesteps.

In the variance-exploding form this is Euler's method on the probability-flow ODE, so a picture is that of ComfyUI's
KSampler with the sampler "euler", the scheduler "simple" and denoise 1 at the same seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core.errors import FewShotError
from ..core.progress import NullProgress, Progress
from .conditioning import Conditioning, Embeddings
from .process import check_steps, gaussian

if TYPE_CHECKING:
    from .contract import DiffusionModel


@dataclass(frozen=True)
class SamplingOptions:
    """How pictures are drawn: sides in pixels, the classifier-free guidance scale (1 is none), and how many at once."""

    width: int
    height: int
    steps: int = 30
    guidance: float = 7.0
    negative: str = ""
    batch: int = 4


@torch.no_grad()
def sample(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    progress: Progress | None = None,
    embeddings: Embeddings | None = None,
) -> Tensor:
    """One picture a prompt and seed: (B, 3, H, W) in [0, 1] on the CPU.

    Each picture has its own random stream, so it does not depend on the others or on `options.batch`.
    """
    latents = sample_latents(model, prompts, seeds, options, progress, embeddings)
    return torch.cat([model.decode(chunk).cpu() for chunk in latents.split(options.batch)])


@torch.no_grad()
def sample_latents(
    model: DiffusionModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    options: SamplingOptions,
    progress: Progress | None = None,
    embeddings: Embeddings | None = None,
) -> Tensor:
    """The scaled latents (B, C, h, w) of what `sample` gives, on the networks' device."""
    _check(model, prompts, seeds, options)
    progress, steps, batch = progress or NullProgress(), options.steps, options.batch
    size = (options.width, options.height)
    shape = model.latent_shape(*size)
    plain = math.isclose(options.guidance, 1.0)
    wanted, against = _conditionings(model, prompts, None if plain else options.negative, embeddings)
    process = model.process
    times = process.sampling_times(steps, size).to(model.device)
    table = process.coefficients(times[:-1], times[1:]).to(model.device)
    done, total = 0, steps * math.ceil(len(prompts) / batch)
    finished = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        latents = torch.stack([initial_noise(shape, seed) for seed in seeds[part]]).to(model.device)
        chosen = wanted.take(part)
        both = chosen if against is None else Conditioning.cat([against.repeat(len(chosen)), chosen])
        for i in range(steps):
            progress.check()
            now = times[i : i + 1]
            prediction = guided(model, latents, now.expand(len(latents)), both, options.guidance)
            latents = gaussian(process, latents, prediction, now, table.take(slice(i, i + 1))).mean
            done += 1
            progress.report(done, total)
        finished.append(latents)
    return torch.cat(finished)


def _conditionings(
    model: DiffusionModel, prompts: Sequence[str], negative: str | None, embeddings: Embeddings | None
) -> tuple[Conditioning, Conditioning | None]:
    """The prompts' conditioning, each text encoded once, and the negative prompt's (one row)."""
    texts = list(dict.fromkeys(prompts))
    wanted = model.encode_weighted(texts, embeddings).take([texts.index(prompt) for prompt in prompts])
    return wanted, None if negative is None else model.encode_weighted([negative], embeddings)


def guided(model: DiffusionModel, latents: Tensor, t: Tensor, conditioning: Conditioning, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022) on the prediction (n, ...) for latents (n, ...) at times (n,).

    `conditioning` are n rows to be drawn away from and the n rows of the prompts; these alone give the prediction as it
    is.
    """
    copies = len(conditioning) // len(latents)
    prediction = model.predict(torch.cat([latents] * copies), t.repeat(copies), conditioning)
    if copies == 1:
        return prediction
    away, towards = prediction.chunk(2)
    return away + guidance * (towards - away)


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise (C, h, w) that depends on the seed alone, as ComfyUI draws it for one picture."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, *shape), generator=generator)[0]


def _check(model: DiffusionModel, prompts: Sequence[str], seeds: Sequence[int], options: SamplingOptions) -> None:
    width, height, batch = options.width, options.height, options.batch
    cell = model.downscale
    if not prompts or len(prompts) != len(seeds):
        raise FewShotError(
            f"{len(prompts)} prompts and {len(seeds)} seeds were given: give as many of each, at least 1"
        )
    if width < cell or height < cell or width % cell or height % cell:
        raise FewShotError(f"a picture of {width} x {height} pixels cannot be made: both must be multiples of {cell}")
    check_steps(options.steps, len(model.process))
    if batch < 1:
        raise FewShotError(f"a batch of {batch} was asked for: choose at least 1")
