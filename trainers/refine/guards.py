"""What watches over a refinement: readings on held-out prompts, when they fail, and which step is returned.

A reward that is only followed is deceived sooner or later. So pictures of held-out prompts are drawn every few rounds,
always from the same noise, and a reading fails when the likeness to the subject, the variety among pictures of a
prompt, or a metric that is not rewarded falls below a share of what it was at the start. The returned step is that of
the last reading that did not fail, unless an earlier one has a higher held-out reward; the start itself never fails.

Few pictures say little. So both rules count only what exceeds two standard errors of the paired difference, see
`paired`: a gain is not thrown away because a few pictures came out worse. Each comparison has its own chance of being
wrong: of refinements that change nothing one in six returns an earlier reading than the last of eight, which is as
good (with 16 prompts).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..validation.schedule import BestCheckpoint, write_readings
from .paired import PairedDifference, paired_difference

if TYPE_CHECKING:
    from ..distributed import Processes

log = logging.getLogger(__name__)
AXES = ("subject", "diversity", "held_out")


@dataclass(frozen=True)
class Reading:
    """What was seen of each picture of held-out prompts after `step` steps.

    Args:
        rewards: (terms, pictures); NaN where a reward does not apply to a picture, or the reading could not be taken.
        subject, diversity, held_out: (pictures,), empty where unseen: the likeness, NaN where a prompt does not name
            the subject; the mean distance to the other pictures of the prompt; the metric that is not rewarded.
    """

    step: int
    rewards: tuple[tuple[float, ...], ...]
    subject: tuple[float, ...] = ()
    diversity: tuple[float, ...] = ()
    held_out: tuple[float, ...] = ()

    @property
    def table(self) -> Tensor:
        """All of it (terms + 3, pictures), NaN where unseen."""
        unseen = (math.nan,) * len(self.rewards[0])
        return torch.tensor([*self.rewards, *(getattr(self, axis) or unseen for axis in AXES)], dtype=torch.float64)

    @classmethod
    def from_table(cls, step: int, table: Tensor) -> Reading:
        """The inverse of `table`."""
        rows = [tuple(row) for row in table.tolist()]
        axes = [() if all(map(math.isnan, row)) else row for row in rows[-len(AXES) :]]
        return cls(step, tuple(rows[: -len(AXES)]), *axes)

    def mean(self, axis: str) -> float:
        """The mean of an axis over the pictures that it applies to; NaN where it is unseen."""
        return _mean(getattr(self, axis))


def _mean(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).nanmean())


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
    """All readings of a run, the start first, with the rewards' weights and the prompt of each picture."""

    readings: tuple[Reading, ...]
    weights: tuple[float, ...]
    prompts: tuple[int, ...]
    floors: Floors

    def over(self, reading: Reading, other: Reading) -> PairedDifference:
        """How far a reading's rewards lie over another's, in standard deviations of the start's pictures."""
        rows = torch.tensor([reading.rewards, other.rewards], dtype=torch.float64)
        shares = [w / max(s, 1e-9) / sum(self.weights) for w, s in zip(self.weights, self.spreads, strict=True)]
        return paired_difference(rows[0] - rows[1], self.prompts, shares)

    def gain(self, reading: Reading) -> PairedDifference:
        """How far the rewards rose over the start."""
        return self.over(reading, self.readings[0])

    @cached_property
    def spreads(self) -> tuple[float, ...]:
        """Each reward's standard deviation among the start's pictures; 1 for one that applies to none."""
        rows = torch.tensor(self.readings[0].rewards, dtype=torch.float64)
        known = [row[~row.isnan()] for row in rows]
        return tuple(float(row.std(correction=0)) if len(row) else 1.0 for row in known)

    def failed(self, reading: Reading) -> tuple[str, ...]:
        """What the reading fails by, in words; nothing for a good one. What the start did not see cannot fail."""
        start, found = self.readings[0], []
        if bool((reading.table.isnan() & ~start.table.isnan()).any()):
            return ("it could not be taken",)
        for axis in AXES:
            over = self._over_floor(axis, reading)
            if over is not None and over.fell:
                now, then = reading.mean(axis), start.mean(axis)
                found.append(
                    f"{axis.replace('_', '-')} {now:.4f} of {then:.4f} at the start "
                    f"({-over.mean:.4f} below its floor, standard error {over.standard_error:.4f})"
                )
        return tuple(found)

    def _over_floor(self, axis: str, reading: Reading) -> PairedDifference | None:
        """How far an axis lies over its floor, then - (1 - floor) |then|; None where nothing is looked at."""
        floor, start = getattr(self.floors, axis), self.readings[0]
        if not floor or not getattr(start, axis):
            return None
        now, then = (torch.tensor([getattr(one, axis)], dtype=torch.float64) for one in (reading, start))
        size = then if start.mean(axis) > 0 else -then  # whose mean is |mean of then|
        return paired_difference(now - then + (1 - floor) * size, self.prompts, [1.0])

    @cached_property
    def passed(self) -> tuple[Reading, ...]:
        """The readings that did not fail; the start is always one of them."""
        return tuple(reading for reading in self.readings if not self.failed(reading))

    def better_than(self, reading: Reading) -> Reading | None:
        """Of the earlier readings that did not fail and are better than this one, the one by most; None without any."""
        found = [(self.over(reading, one), one) for one in self.passed if one.step < reading.step]
        return min(((over.mean, one) for over, one in found if over.fell), default=(0.0, None), key=lambda of: of[0])[1]

    @cached_property
    def best(self) -> Reading:
        """The last reading that did not fail and that no earlier one is better than."""
        return next(one for one in reversed(self.passed) if self.better_than(one) is None)

    def is_over(self, patience: int) -> bool:
        """Whether the last `patience` readings all failed; never with 0."""
        last = self.readings[-patience:] if patience else ()
        return len(last) == patience > 0 and all(map(self.failed, last))

    def plain(self, names: Sequence[str]) -> dict[str, Any]:
        """For JSON and for the node."""
        return {"readings": [self._row(reading, names) for reading in self.readings], "best": self.best.step}

    def _row(self, reading: Reading, names: Sequence[str]) -> dict[str, Any]:
        """A reading's means, and under "pictures" what each picture has, None where something does not apply."""
        gain, better = self.gain(reading), self.better_than(reading)
        rewards = dict(zip(names, reading.rewards, strict=True))
        axes = {axis: getattr(reading, axis) for axis in AXES if getattr(reading, axis)}
        row = {
            "step": reading.step,
            "rewards": {name: _plain(_mean(values)) for name, values in rewards.items()},
            "gain": gain.mean,
        }
        row |= {"standard_error": gain.standard_error} if math.isfinite(gain.standard_error) else {}
        row |= {axis: reading.mean(axis) for axis in axes} | {"failed": list(self.failed(reading))}
        row |= {"better": better.step} if better is not None else {}
        pictures = {name: [_plain(value) for value in values] for name, values in (rewards | axes).items()}
        return row | {"pictures": pictures}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def line(step: int, gain: float, readings: Mapping[str, float], failed: Sequence[str] = ()) -> str:
    """A reading in words: the held-out reward's gain, what the guards see, and why it may not be returned."""
    text = [f"step {step}: reward {gain:+.2f} deviations"]
    text[0] += f" (standard error {readings['standard_error']:.2f})" if "standard_error" in readings else ""
    text += [f"{axis.replace('_', '-')} {readings[axis]:.3f}" for axis in AXES if axis in readings]
    text += [f"failed: {', '.join(failed)}"] if failed else []
    text += [f"step {readings['better']} was better"] if "better" in readings else []
    return ", ".join(text)


Read = Callable[[int], Reading]
"""Takes the reading after a step."""


class GuardedCheckpoint(BestCheckpoint):
    """The best weights are those of `Readings.best`.

    Args:
        read: called in the main process only.
        rewards: their weights by their names.
        prompts: of each picture that is read.
        file: where the readings are kept for people.
        tell: given each reading's step, its words and its numbers, to show them.
    """

    def __init__(
        self,
        read: Read,
        schedule: GuardSchedule,
        rewards: Mapping[str, float],
        prompts: Sequence[int],
        file: Path,
        tell: Callable[[int, str, Mapping[str, float]], None] = lambda step, text, metrics: None,
    ):
        super().__init__(schedule.every, schedule.last)
        self.patience = schedule.patience
        self.read, self.names, self.file, self.tell = read, tuple(rewards), file, tell
        self.readings = Readings((), tuple(rewards.values()), tuple(prompts), schedule.floors)
        if len(set(prompts)) < 2:
            log.warning(
                "a single held-out prompt gives no standard error: a reading fails only where it holds no numbers. "
                "Hold out more prompts"
            )

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
        unread = torch.zeros(len(self.names) + len(AXES), len(self.readings.prompts))
        table = self.read(step).table if processes.main else unread
        self._take(step, self.broadcast(table.flatten().tolist(), parameters, processes))
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

    def _take(self, step: int, values: Sequence[float]) -> None:
        table, old = torch.tensor(values, dtype=torch.float64), self.readings
        reading = Reading.from_table(step, table.view(len(self.names) + len(AXES), len(old.prompts)))
        self.readings = replace(old, readings=(*old.readings, reading))

    def _tell(self) -> None:
        last = self.readings.readings[-1]
        failed = self.readings.failed(last)
        text, gain = f"; failed: {', '.join(failed)}" if failed else "", self.readings.gain(last)
        log.info(
            "reading after step %d: held-out reward %+.3f, standard error %.3f%s",
            last.step, gain.mean, gain.standard_error, text,
        )  # fmt: skip
        if self.is_over:
            log.warning("%d readings in a row failed: back to step %s", self.patience, self.best_step)

    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        if self.best_step == 0:
            log.warning("every reading failed or was worse than the start: the refining adapter does nothing")
        return super().restore_best(step, parameters)

    def state(self) -> dict[str, torch.Tensor]:
        rows = [[r.step, *r.table.flatten().tolist()] for r in self.readings.readings]
        return {"readings": torch.tensor(rows, dtype=torch.float64).reshape(len(rows), -1)} | super().state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        for row in state["readings"].tolist():
            self._take(int(row[0]), row[1:])
        super().load(state)
