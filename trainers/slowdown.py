"""Notices when steps suddenly become slow, as they do when a driver moves GPU memory to the host's without a word."""

from __future__ import annotations

import statistics

SLOWDOWN = 5.0  # times the usual; what memory that spills costs is 10 to 100 times
USUAL = 5  # intervals that the usual time is the median of


class SlowdownDetector:
    """The time of a step over the log's intervals. The first interval warms up and does not count."""

    def __init__(self) -> None:
        self._first = True
        self._seen: list[float] = []
        self._told = False

    def observe(self, seconds: float) -> str | None:
        """Seconds a step took over one interval; a warning, once, when that is suddenly much more than usual."""
        if self._first:
            self._first = False
            return None
        usual = statistics.median(self._seen) if self._seen else None
        if usual is not None and seconds > SLOWDOWN * usual and not self._told:
            self._told = True
            return (
                f"a step suddenly takes {seconds:.2f} s, {seconds / usual:.0f} times as long as before ({usual:.2f} s)"
                ": GPU memory probably spills to the host's. Close other programs that use the GPU, or cancel and set "
                "micro_batch to 1, gradient_checkpointing and offload to on; the training goes on from here"
            )
        if len(self._seen) < USUAL:
            self._seen.append(seconds)
        return None
