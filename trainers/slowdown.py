"""Detect steps that suddenly become slow, as when a driver silently moves GPU memory to the host."""

from __future__ import annotations

import statistics

SLOWDOWN = 5.0  # times the baseline that trigger a warning; spilled memory costs 10 to 100 times
BASELINE = 5  # intervals whose median is the baseline


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
