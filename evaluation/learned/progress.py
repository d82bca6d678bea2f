"""Progress of the check: its own phase after the training, with the time that is left."""

from __future__ import annotations

import time

from PIL import Image

from ...core.progress import NO_METRICS, Metrics, Progress


class CheckProgress:
    """Passes on what it is told, with the time left by what was done since it was made."""

    def __init__(self, outer: Progress):
        self.outer, self.begun = outer, time.monotonic()
        self.first: int | None = None  # what was done already when it began

    def check(self) -> None:
        self.outer.check()

    def report(
        self, done: int, total: int, text: str = "", picture: Image.Image | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        self.first = done if self.first is None else self.first
        line = f"did it learn? {text}"
        made = done - self.first
        if 0 < made and done < total:
            left = (time.monotonic() - self.begun) / made * (total - done)
            line += f", {left:.0f} s left"
        self.outer.report(done, total, line, picture, metrics)
