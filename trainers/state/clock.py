"""How fast steps are, and how long the rest takes, what is no step counted apart."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Runs from its making on; `before` are the seconds of earlier parts of the run."""

    def __init__(self, device: torch.device, steps: int):
        self.device, self.steps = device, steps
        self.before = 0.0
        self.first = self.logged = 0  # the step that this process began with, and that of the last interval's end
        self.begun = self.logged_at = time.monotonic()
        self.aside = 0.0  # seconds since the first step of what is no step

    def resume(self, step: int, seconds: float) -> None:
        """Begin at `step`, after parts that took `seconds`."""
        self.first = self.logged = step
        self.before = seconds

    def seconds(self) -> float:
        """Of the whole run so far."""
        return self.before + time.monotonic() - self.begun

    def interval(self, step: int) -> tuple[float, float]:
        """Steps a second since the last call, and the seconds that are left after `step` steps."""
        now = time.monotonic()
        speed = (step - self.logged) / max(now - self.logged_at, 1e-9)
        left = (self.steps - step) * (1 / speed + self.aside / max(1, step - self.first))
        self.logged, self.logged_at = step, now
        return speed, left

    @contextmanager
    def apart(self, step: int) -> Iterator[None]:
        """What is no step: its time counts for the time left alone. On a GPU steps under way come to their end."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        begun = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begun
            self.logged_at += took
            self.aside += took if step > self.first else 0.0
