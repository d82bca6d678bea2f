"""What watches over a refinement: readings on held-out prompts, when they fail, and which step is returned.

A reward that is only followed is deceived sooner or later. So pictures of held-out prompts are drawn every few rounds,
always from the same noise, and a reading fails when the likeness to the subject, the variety among pictures of a
prompt, or a metric that is not rewarded falls below a share of what it was at the start. The returned step is the one
with the highest held-out reward of those that did not fail; the start itself never fails.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..validation.schedule import BestCheckpoint, write_readings

if TYPE_CHECKING:
    from ..distributed import Processes

log = logging.getLogger(__name__)
AXES = ("subject", "diversity", "held_out")


@dataclass(frozen=True)
class Reading:
    """What was seen of held-out prompts after `step` steps: each reward's mean, and three guards, NaN where unseen."""

    step: int
    rewards: tuple[float, ...]
    subject: float = math.nan
    diversity: float = math.nan
    held_out: float = math.nan


@dataclass(frozen=True)
class Floors:
    """The shares of the start's values below which a reading fails."""

    subject: float = 0.9
    diversity: float = 0.7
    held_out: float = 0.97


@dataclass(frozen=True)
class GuardSchedule:
    """Readings every `every` steps until `last`; `patience` failed ones in a row end the refinement, 0 never does."""

    every: int
    last: int
    patience: int
    floors: Floors = Floors()


@dataclass(frozen=True)
class Readings:
    """All readings of a run, the start first. `spreads` are the rewards' standard deviations at the start."""

    readings: tuple[Reading, ...]
    weights: tuple[float, ...]
    spreads: tuple[float, ...]
    floors: Floors

    def gain(self, reading: Reading) -> float:
        """How far the rewards rose over the start, in standard deviations of the start's pictures."""
        start = self.readings[0].rewards
        rows = zip(self.weights, reading.rewards, start, self.spreads, strict=True)
        return sum(w * (now - then) / max(s, 1e-9) for w, now, then, s in rows) / sum(self.weights)

    def failed(self, reading: Reading) -> tuple[str, ...]:
        """What the reading fails by, in words; nothing for a good one. What is not seen cannot fail."""
        start, found = self.readings[0], []
        if not all(map(math.isfinite, reading.rewards)):
            return ("it could not be taken",)
        for axis in AXES:
            now, then = getattr(reading, axis), getattr(start, axis)
            if then - now > (1 - getattr(self.floors, axis)) * abs(then):
                found.append(f"{axis.replace('_', '-')} {now:.4f} of {then:.4f} at the start")
        return tuple(found)

    @property
    def best(self) -> Reading:
        """The reading with the highest gain that did not fail."""
        return max((r for r in self.readings if not self.failed(r)), key=self.gain, default=self.readings[0])

    def is_over(self, patience: int) -> bool:
        """Whether the last `patience` readings all failed; never with 0."""
        last = self.readings[-patience:] if patience else ()
        return len(last) == patience > 0 and all(map(self.failed, last))

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """For JSON and for the node."""
        rows = [
            {"step": r.step, "rewards": dict(zip(names, r.rewards, strict=True)), "gain": self.gain(r)}
            | {axis: getattr(r, axis) for axis in AXES if math.isfinite(getattr(r, axis))}
            | {"failed": list(self.failed(r))}
            for r in self.readings
        ]
        return {"readings": rows, "best": self.best.step}


def line(step: int, gain: float, readings: Mapping[str, float], failed: Sequence[str] = ()) -> str:
    """A reading in words: the held-out reward's gain and what the guards see."""
    axes = [f"{axis.replace('_', '-')} {readings[axis]:.3f}" for axis in AXES if axis in readings]
    text = [f"step {step}: reward {gain:+.2f} deviations", *axes, *([f"failed: {', '.join(failed)}"] if failed else [])]
    return ", ".join(text)


Read = Callable[[int], tuple[Reading, tuple[float, ...]]]
"""Takes the reading after a step, with the standard deviation of each reward among its pictures."""


class GuardedCheckpoint(BestCheckpoint):
    """The best weights are those of the best reading on held-out prompts.

    Args:
        read: called in the main process only.
        rewards: their weights by their names.
        file: where the readings are kept for people.
        tell: given each reading's step, its words and its numbers, to show them.
    """

    def __init__(
        self,
        read: Read,
        schedule: GuardSchedule,
        rewards: Mapping[str, float],
        file: Path,
        tell: Callable[[int, str, Mapping[str, float]], None] = lambda step, text, metrics: None,
    ):
        super().__init__(schedule.every, schedule.last)
        self.patience = schedule.patience
        self.read, self.names, self.file, self.tell = read, tuple(rewards), file, tell
        self.readings = Readings((), tuple(rewards.values()), (1.0,) * len(rewards), schedule.floors)

    @property
    def steps(self) -> list[int]:
        return [reading.step for reading in self.readings.readings]

    @property
    def is_over(self) -> bool:
        return self.readings.is_over(self.patience)

    def plain(self) -> dict[str, Any]:
        return self.readings.plain(self.names) if self.readings.readings else {}

    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Take a reading, and keep the weights if it is the best so far."""
        row = self._row(*self.read(step)) if processes.main else [0.0] * (2 * len(self.names) + len(AXES))
        self._take(step, self.broadcast(row, parameters, processes))
        if self.readings.best.step == step:
            self.store(step, parameters)
        if processes.main:
            plain = self.plain()
            write_readings(self.file, plain)
            row = plain["readings"][-1]
            text = "reading after " + line(step, row["gain"], row, row["failed"])
            metrics = {"reading/reward": row["gain"]} | {f"reading/{axis}": row[axis] for axis in AXES if axis in row}
            self.tell(step, text, metrics)
        self._tell()

    def _row(self, reading: Reading, spreads: Sequence[float]) -> list[float]:
        return [*reading.rewards, *spreads, *(getattr(reading, axis) for axis in AXES)]

    def _take(self, step: int, values: Sequence[float]) -> None:
        count, old = len(self.names), self.readings
        reading = Reading(step, tuple(values[:count]), *values[2 * count :])
        spreads = old.spreads if old.readings else tuple(values[count : 2 * count])
        self.readings = Readings((*old.readings, reading), old.weights, spreads, old.floors)

    def _tell(self) -> None:
        last = self.readings.readings[-1]
        failed = self.readings.failed(last)
        text = f"; failed: {', '.join(failed)}" if failed else ""
        log.info("reading after step %d: held-out reward %+.3f%s", last.step, self.readings.gain(last), text)
        if self.is_over:
            log.warning("%d readings in a row failed: back to step %s", self.patience, self.best_step)

    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        if self.best_step == 0:
            log.warning("no reading was better than the start and kept the subject: the refining adapter does nothing")
        return super().restore_best(step, parameters)

    def state(self) -> dict[str, torch.Tensor]:
        rows = [[r.step, *self._row(r, self.readings.spreads)] for r in self.readings.readings]
        return {"readings": torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1)} | super().state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for row in state["readings"].tolist():
            self._take(int(row[0]), row[1:])
        super().load(state)
