"""What a training will take, by formula: memory on the GPU and on the host, for this device and for cards of any size.

Formulas are good to about a quarter; whatever was not measured is called estimated where it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .auto import FLOAT8_SAVES, Facts, split_of
from .memory import CONTEXT, HEADROOM, Split, trained_bytes
from .settings import SubjectSettings

LIBRARIES = 2_000_000_000  # bytes of host memory that Python, torch and what they load take
STATES = 3 * 0.8  # of what is trained, while a state is written: all but gradients, and copied twice
CARDS = (8, 12, 16, 24)  # GB


@dataclass(frozen=True)
class Weights:
    """How many numbers the frozen networks have."""

    denoiser: int
    autoencoder: int
    text: int


@dataclass(frozen=True)
class Demand:
    """Bytes of GPU memory by what they are for."""

    context: float
    frozen: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        return self.context + self.frozen + self.trained + self.activations


@dataclass(frozen=True)
class Card:
    """How a step fits on a card of so many bytes."""

    size: float
    split: Split
    demand: Demand

    @property
    def headroom(self) -> float:
        return self.size - self.demand.total

    @property
    def fits(self) -> bool:
        return self.headroom >= HEADROOM


def on_card(settings: SubjectSettings, facts: Facts, weights: Weights, size: float, reads_text: bool) -> Card:
    """What `auto` chooses on a CUDA card of `size` bytes that nothing else uses, in half precision.

    `settings` have batch_size and resolution chosen, and what is left to memory as the person set it.
    """
    waiting = weights.autoencoder + (0 if reads_text else weights.text)
    frozen = 2.0 * (weights.denoiser + weights.autoencoder + weights.text)
    there = replace(
        facts, half=True, free=int(size - CONTEXT - frozen), denoiser=2.0 * weights.denoiser, encoders=2.0 * waiting
    )
    split = split_of(settings, there)
    return Card(size, split, demand(split, trained_bytes(facts.trained, settings.optimizer), weights, 2, reads_text))


def demand(split: Split, trained: int, weights: Weights, width: int, reads_text: bool) -> Demand:
    """Bytes of a step that is split so; `width` is of a frozen number, `trained` as of `trained_bytes`."""
    denoiser = width * weights.denoiser * (1 - FLOAT8_SAVES if split.float8 else 1)
    waiting = weights.autoencoder + (0 if reads_text else weights.text)
    encoders = weights.autoencoder + weights.text - (waiting if split.offload else 0)
    return Demand(CONTEXT, denoiser + width * encoders, trained, split.bytes)


def host_memory(split: Split, trained: int, weights: Weights, on_gpu: bool, reads_text: bool, validator: int) -> float:
    """Bytes of host memory: what waits there, a state while it is written, a validating model; on a CPU, everything.

    `trained` are the bytes of `trained_bytes`.
    """
    fixed = LIBRARIES + STATES * trained + validator
    if not on_gpu:
        return fixed + demand(split, trained, weights, 4, reads_text).total - CONTEXT
    waiting = weights.autoencoder + (0 if reads_text else weights.text)
    return fixed + (2 * waiting if split.offload else 0)
