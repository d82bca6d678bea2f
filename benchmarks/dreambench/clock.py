"""What has been done, how long it took, and how long the rest will take; kept on disk, so that a cut run knows it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...core.atomic import write_whole
from ...core.progress import NO_METRICS, Metrics

log = logging.getLogger(__name__)
PATIENCE = 20.0  # seconds between two lines of one part


@dataclass
class SlowLog:
    """Logs the progress of a part, a line every `PATIENCE` seconds at most."""

    part: str
    last: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        pass

    def report(
        self, done: int, total: int, text: str = "", picture: Image.Image | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        if total and time.monotonic() - self.last >= PATIENCE:
            self.last = time.monotonic()
            log.info("    %s: %d of %d%s", self.part, done, total, f" ({text})" if text else "")


@dataclass
class Clock:
    """The parts of a run. `plan` says how many there are of each kind; `seconds` those of the parts that are done, by
    kind and name, in `file`."""

    file: Path
    plan: Mapping[str, int]
    seconds: dict[str, dict[str, float]] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        try:
            self.seconds = {kind: dict(of) for kind, of in json.loads(self.file.read_text("utf-8")).items()}
        except (OSError, ValueError, AttributeError):
            self.seconds = {}

    @contextmanager
    def part(self, kind: str, name: str) -> Iterator[dict[str, float]]:
        """Times a part, and logs it with what is left. A part that was done before keeps its time; one that knows its
        own, earlier parts included, puts it into what this gives as "seconds"."""
        began, own = time.monotonic(), dict[str, float]()
        yield own
        took = own.get("seconds", time.monotonic() - began)
        of_kind = self.seconds.setdefault(kind, {})
        of_kind[name] = max(took, of_kind.get(name, 0.0))
        self.done.add((kind, name))
        write_whole(self.file, json.dumps(self.seconds, indent=1).encode())
        total = sum(self.plan.values())
        log.info("[%d/%d] %s: %s, %s; %s", len(self.done), total, name, kind, duration(of_kind[name]), self.left())

    def leave_out(self, name: str, kinds: Iterable[str]) -> None:
        """Parts that are not done, since what they need could not be made."""
        self.done.update((kind, name) for kind in kinds)

    def left(self) -> str:
        """How long the rest takes, by the parts of its kind that were done; unknown before the first of each kind."""
        rest, unknown = 0.0, []
        for kind, count in self.plan.items():
            missing = count - sum(one == kind for one, _ in self.done)
            known = list(self.seconds.get(kind, {}).values())
            if missing > 0 and known:
                rest += missing * sum(known) / len(known)
            elif missing > 0:
                unknown.append(kind)
        if unknown:
            return f"what is left is known after the first {unknown[0]}"
        return f"{duration(rest)} left"

    def total(self, kind: str) -> float:
        """The seconds of all parts of a kind."""
        return sum(self.seconds.get(kind, {}).values())


def duration(seconds: float) -> str:
    """ "12 s", "7 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
