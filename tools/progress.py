"""A progress bar on one line of a terminal; in a log file, a line every ten seconds."""

from __future__ import annotations

import re
import shutil
import sys
import time

WIDTH = 24
LOG_EVERY = 10.0  # seconds


def clock(seconds: float) -> str:
    """ "1:05"."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class ProgressBar:
    """Shows the running node, its progress, its last line of text (the loss) and the remaining time."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.name, self.text = "", ""
        self.value = self.total = 0.0
        self.first: tuple[float, float] | None = None
        self.shown = 0.0
        self.open = False

    def begin(self, name: str) -> None:
        """Another node runs now."""
        self.close()
        self.name, self.text, self.value, self.total, self.first = name, "", 0, 0, None
        self.shown = time.monotonic()
        if self.live:
            self._draw()

    def update(self, value: float, total: float) -> None:
        now = time.monotonic()
        if self.first is None or value < self.value:
            self.first = (value, now)
        self.value, self.total = value, total
        if self.live or now - self.shown > LOG_EVERY or value >= total > 1:
            self.shown = now
            self._draw()

    def note(self, text: str) -> None:
        """The node's own line of text; its first line is shown, without the count that the bar shows already."""
        self.text = re.sub(r"^\d+/\d+\s*", "", text.strip().partition("\n")[0])
        if self.live:
            self._draw()

    def eta(self) -> str:
        """How long the rest takes at the speed since the first step, unless the node's text gives it."""
        has_eta = re.search(r"ETA|\bleft\b", self.text)
        if has_eta or self.first is None or not self.first[0] < self.value < self.total:
            return ""
        speed = (self.value - self.first[0]) / max(time.monotonic() - self.first[1], 1e-6)
        return f"ETA {clock((self.total - self.value) / speed)}"

    def line(self) -> str:
        parts = [self.name]
        if self.total > 1:
            full = int(WIDTH * min(self.value / self.total, 1.0))
            parts.append(f"[{'#' * full}{'.' * (WIDTH - full)}] {self.value:g}/{self.total:g}")
        return "  ".join(part for part in (*parts, self.text, self.eta()) if part)

    def _draw(self) -> None:
        if not self.live:
            print(self.line(), flush=True)
            return
        room = shutil.get_terminal_size().columns - 1
        print("\r" + self.line()[:room].ljust(room), end="", flush=True)
        self.open = True

    def close(self) -> None:
        if self.open:
            print(flush=True)
            self.open = False
