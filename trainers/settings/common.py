"""Groups of settings that every training has: optimisation, memory, checkpoints, previews."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.settings import Range, Settings, setting

WARMUP_STABLE_DECAY = "warmup_stable_decay"
SCHEDULES = ("constant", "cosine", "linear", WARMUP_STABLE_DECAY)


@dataclass(frozen=True, kw_only=True)
class Optimization(Settings, ABC):
    """How long and how fast a training goes."""

    steps: int = setting(
        -1,
        "Number of optimiser steps. -1 chooses from the number of reference pictures.",
        Range(1, 100_000, 10),
        auto=-1,
    )
    seed: int = setting(0, "All random numbers follow from it.", Range(0, 2**63 - 1, 1))
    schedule: str = setting(
        "constant",
        "How the learning rate goes on after warm-up; warmup_stable_decay is constant and falls to zero over the last "
        "third of the steps.",
        SCHEDULES,
        advanced=True,
    )
    warmup: float = setting(
        0.03, "Share of the steps over which the learning rate rises from zero.", Range(0.0, 0.5, 0.01), advanced=True
    )
    max_gradient_norm: float = setting(
        1.0, "Longer gradients are scaled down to this norm.", Range(1e-6, 1e6, 0.1), advanced=True
    )

    @property
    @abstractmethod
    def rates(self) -> Mapping[str, float]:
        """The learning rate of each group of parameters, by the beginning of their names."""

    @property
    def optimizer_name(self) -> str:
        """The optimiser, where a training leaves no choice of it."""
        return "adamw"

    @property
    def decay(self) -> float:
        """The optimiser's weight decay, where a training leaves no choice of it."""
        return 1e-4


@dataclass(frozen=True, kw_only=True)
class MemorySettings(Settings):
    """How a step fits into the memory of the device; `auto` chooses it."""

    micro_batch: int = setting(
        0,
        "Pictures in one pass of the denoiser; fewer take less memory, the result is the same. 0 chooses from free "
        "memory.",
        Range(1, 512, 1),
        auto=0,
        advanced=True,
        matters=False,
    )
    gradient_checkpointing: str = setting(
        "auto",
        "Computes activations twice instead of keeping them: less memory, about 1.4 times as slow.",
        ("auto", "on", "off"),
        advanced=True,
        matters=False,
    )
    offload: str = setting(
        "auto",
        "Text encoders and autoencoder wait in the host's memory where they are not trained: less GPU memory, previews "
        "and validations take a little longer.",
        ("auto", "on", "off"),
        advanced=True,
        matters=False,
    )
    weights: str = setting(
        "auto",
        "How the frozen denoiser is kept: in the base's compute type, or in 8 bits, which saves half of its memory and "
        "changes the result a little. auto takes 8 bits only where nothing else fits.",
        ("auto", "full", "float8"),
        advanced=True,
    )


@dataclass(frozen=True, kw_only=True)
class Checkpointing(Settings):
    """How often a training keeps what it knows."""

    save_every: int = setting(
        100,
        "Steps between checkpoints, from which a cut run goes on.",
        Range(1, 100_000, 10),
        advanced=True,
        matters=False,
    )
    log_every: int = setting(10, "Steps between lines of log.jsonl.", Range(1, 10_000, 1), advanced=True, matters=False)


@dataclass(frozen=True, kw_only=True)
class Previews(Settings):
    """Pictures that are drawn while training, for people to look at."""

    preview_every: int = setting(
        0, "Steps between preview pictures. 0 is off.", Range(0, 100_000, 10), advanced=True, matters=False
    )
    preview_prompt: str = setting(
        "", "Prompt of the previews. Empty takes the trigger phrase.", advanced=True, matters=False
    )
