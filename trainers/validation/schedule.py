"""When a training is validated, when it stops early, and which weights it returns."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...core.atomic import write_whole
from ...evaluation.selection import Curve, Point

if TYPE_CHECKING:
    from ..distributed import Processes

log = logging.getLogger(__name__)

# Validate the current weights, after a step: (subject, prompt, unrelated) of `Point`; NaN where it failed.
Measure = Callable[[int], tuple[float, float, float]]
BEST = "best/"  # prefix of the best weights in a saved state
FILE = "readings.json"


class BestCheckpoint(ABC):
    """Validation every `every` steps, before the first and after the last; the best weights are stored on the host.

    Every decision is a function of the readings, which all processes share and each saved state holds, so that a
    resumed run decides as an uninterrupted one.
    """

    def __init__(self, every: int, last: int):
        self.every, self.last = every, last
        self.best_step: int | None = None
        self.weights: dict[str, torch.Tensor] = {}

    @property
    @abstractmethod
    def steps(self) -> Iterable[int]:
        """The steps after which it was evaluated so far."""

    @property
    def is_over(self) -> bool:
        """Whether training stops early."""
        return False

    @property
    def curve(self) -> Curve | None:
        """The readings of subject and prompt fidelity, where these are measured."""
        return None

    def plain(self) -> dict[str, Any]:
        """The readings for JSON and for people; none where they are those of `curve`."""
        return {}

    @abstractmethod
    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Evaluate the weights as they are after `step` steps."""

    def is_due(self, step: int) -> bool:
        """Whether an evaluation after `step` steps is due and not done."""
        return (step % self.every == 0 or step == self.last) and step not in self.steps

    def broadcast(
        self, values: Sequence[float], parameters: Mapping[str, torch.Tensor], processes: Processes
    ) -> list[float]:
        """Share the main process's values with all processes: the others pass zeros."""
        numbers = torch.tensor(values, device=next(iter(parameters.values())).device)
        processes.all_reduce(numbers)
        return numbers.tolist()

    def store(self, step: int, parameters: Mapping[str, torch.Tensor]) -> None:
        """Store these weights as the best so far."""
        self.best_step = step
        self.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}

    @torch.no_grad()
    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        """Put the best weights into `parameters` and return their step; without any, change nothing."""
        if self.best_step is None:
            return step
        for name, parameter in parameters.items():
            parameter.copy_(self.weights[name])
        log.info("the weights after step %d of %d are the best and are returned", self.best_step, step)
        return self.best_step

    def state(self) -> dict[str, torch.Tensor]:
        """The state that a resumed run needs."""
        about = {"best_step": torch.tensor([-1 if self.best_step is None else self.best_step])}
        return about | {BEST + name: tensor for name, tensor in self.weights.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state` returned."""
        best = int(state["best_step"][0])
        self.best_step = None if best < 0 else best
        self.weights = {name.removeprefix(BEST): t for name, t in state.items() if name.startswith(BEST)}


class ValidatedCheckpoint(BestCheckpoint):
    """The best weights are those of the best trade-off between subject and prompt fidelity (see `selection`).

    Args:
        measure: called in the main process only.
        patience: validations in a row without a better one after which the training ends; 0 never ends it.
        likeness: of the references among themselves; see `selection.Anchors`.
    """

    def __init__(self, measure: Measure, every: int, last: int, patience: int = 0, likeness: float = 1.0):
        super().__init__(every, last)
        self.measure, self.patience = measure, patience
        self.readings = Curve((), likeness)

    @property
    def curve(self) -> Curve:
        return self.readings

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.readings.points]

    @property
    def is_over(self) -> bool:
        return self.readings.is_over(self.patience)

    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Validate, and store the weights if no earlier ones were better."""
        values = self.measure(step) if processes.main else (0.0, 0.0, 0.0)
        point = Point(step, *self.broadcast(values, parameters, processes))
        self.readings = Curve((*self.readings.points, point), self.readings.likeness)
        if self.readings.best is point:
            self.store(step, parameters)
        log.info(
            "validation after step %d: subject %.4f, prompt %.4f, score %.3f",
            step, point.subject, point.prompt, self.readings.scores[-1],
        )  # fmt: skip
        if self.is_over:
            log.info("%d validations brought nothing better than step %s: enough", self.patience, self.best_step)

    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        if self.best_step is None:
            log.warning("no validation saw a gain in likeness to the pictures, so the last step is returned")
        return super().restore_best(step, parameters)

    def state(self) -> dict[str, torch.Tensor]:
        rows = [[p.step, p.subject, p.prompt, p.unrelated] for p in self.readings.points]
        about = {
            "points": torch.tensor(rows, dtype=torch.float64).reshape(-1, 4),
            "likeness": torch.tensor([self.readings.likeness], dtype=torch.float64),
        }
        return about | super().state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        points = tuple(Point(int(row[0]), *row[1:]) for row in state["points"].tolist())
        self.readings = Curve(points, float(state["likeness"][0]))
        super().load(state)


def write_readings(file: Path, readings: Mapping[str, Any]) -> None:
    """Write the readings of a run, for people and for the node's text."""
    write_whole(file, (json.dumps(readings, indent=1) + "\n").encode())


def read_readings(file: Path) -> dict[str, Any]:
    """The readings that a finished run left; none where it took none, or the file was removed."""
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("the readings in %s cannot be read: %s", file, error)
        return {}
