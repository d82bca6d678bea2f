"""Detect what goes wrong while losses are finite: divergence, and steps that suddenly become slow.

Losses of a lost training stay at the error of a denoiser that predicts nothing. Steps become slow where a driver
silently moves GPU memory to the host.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..core.errors import FewShotError

# Steps: of the start, of each of the two windows that must be high, and of those that show a healthy training.
START, WINDOW, LATEST = 4, 8, 4
SLOWDOWN = 5.0  # times the baseline that trigger a warning; spilled memory costs 10 to 100 times
BASELINE = 5  # intervals whose median is the baseline


class Diverged(FewShotError):
    """A loss or gradient was not finite, or losses stay high. The weights after `step` steps are back in place."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def divergence_message(
    where: int, steps: int, values: Mapping[str, float], kept: int, rates: Mapping[str, float]
) -> str:
    """The error message for a training of `steps` that diverged at step `where` (from 0), and what to do about it.

    In the first step no learning rate has had an effect: the values overflow the compute type.
    """
    text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    lower = f"Lower the learning rate (now {', '.join(f'{group} {rate:.3g}' for group, rate in rates.items())})"
    if kept:
        left = f"The weights after step {kept} are kept. {lower} or compute in float32."
    elif where:
        left = f"Nothing was learned that could be kept. {lower} or compute in float32, and train anew."
    else:
        left = (
            "Nothing was learned: it is the first pass, before any weight was changed, that gives no numbers. Load the "
            "base in bfloat16 or float32; if it is so already, its file or that of the adapter to train on from is bad."
        )
    return f"training diverged at step {where + 1} of {steps} ({text}). {left}"


@dataclass(frozen=True)
class Divergence:
    """A rule on the mean of some terms: denoising errors, of which a prediction of nothing has about 1.

    Lost is a training whose median over two windows running is both as high as that and twice the start's. Medians,
    because an error depends on its timestep and varies tenfold from step to step.

    Args:
        terms: names of the terms.
        nothing: the error from which on a denoiser is no better than one that predicts nothing.
    """

    terms: tuple[str, ...]
    nothing: float = 0.8
    rise: float = 2.0

    def errors(self, history: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The mean (n,) of the terms at each of n steps, on the host."""
        return torch.stack([history[name] for name in self.terms]).mean(0).cpu()

    def limit(self, errors: torch.Tensor) -> float:
        return max(self.nothing, self.rise * float(errors[:START].median()))

    def is_lost(self, errors: torch.Tensor) -> bool:
        """Whether both of the last two windows lie at or above the limit, and the latest errors are no better."""
        if len(errors) < 2 * WINDOW or self.is_well(errors):
            return False
        limit, last = self.limit(errors), errors[-2 * WINDOW :].reshape(2, WINDOW)
        return bool((last.median(1).values >= limit).all())

    def is_high(self, errors: torch.Tensor) -> bool:
        """Whether the last window lies at or above the limit: a state of now is better not gone on from."""
        return len(errors) >= WINDOW and float(errors[-WINDOW:].median()) >= self.limit(errors)

    def is_well(self, errors: torch.Tensor) -> bool:
        """Whether the latest errors lie well below the limit: the weights that made them may be returned to."""
        most = max(0.5 * self.nothing, 1.5 * float(errors[:START].median()))
        return float(errors[-LATEST:].median()) <= most


class SlowdownDetector:
    """Watches the time of a step over the log's intervals; the first is a warm-up and does not count."""

    def __init__(self) -> None:
        self._first = True
        self._intervals: list[float] = []
        self._warned = False

    def observe(self, seconds: float) -> str | None:
        """Record the seconds of a step over one interval; returns a warning, once, if far above the baseline."""
        if self._first:
            self._first = False
            return None
        baseline = statistics.median(self._intervals) if self._intervals else None
        if baseline is not None and seconds > SLOWDOWN * baseline and not self._warned:
            self._warned = True
            return (
                f"a step suddenly takes {seconds:.2f} s, {seconds / baseline:.0f} times as long as before "
                f"({baseline:.2f} s): GPU memory probably spills to the host's. Close other programs that use the GPU, "
                "or cancel and set micro_batch to 1, gradient_checkpointing and offload to on; the training goes on "
                "from here"
            )
        if len(self._intervals) < BASELINE:
            self._intervals.append(seconds)
        return None
