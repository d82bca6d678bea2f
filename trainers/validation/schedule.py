"""The course of a training: when it is looked at, when it ends, which weights it returns."""

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

Measure = Callable[[int], tuple[float, float, float]]
"""Validate the weights as they are after that step: (subject, prompt, unrelated) of `Point`; NaN where it failed."""
BEST = "best/"
FILE = "readings.json"


class BestCheckpoint(ABC):
    """A training is looked at every `every` steps, before the first one and after the last; the best weights, where a
    course knows which these are, are kept on the host and returned.

    Everything it decides is a function of what was seen, which all processes share and each saved state holds, so that
    a resumed run decides as the uncut one.
    """

    def __init__(self, every: int, last: int):
        self.every, self.last = every, last
        self.best_step: int | None = None
        self.weights: dict[str, torch.Tensor] = {}

    @property
    @abstractmethod
    def steps(self) -> Iterable[int]:
        """After how many whole steps it was looked at so far."""

    @property
    def is_over(self) -> bool:
        """Whether the training shall end."""
        return False

    @property
    def curve(self) -> Curve | None:
        """The frontier between two fidelities, where that is what was seen."""
        return None

    @abstractmethod
    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Look at the weights as they are after `step` steps."""

    def is_due(self, step: int) -> bool:
        """Whether it should be looked at after `step` whole steps, and was not."""
        return (step % self.every == 0 or step == self.last) and step not in self.steps

    def broadcast(
        self, values: Sequence[float], parameters: Mapping[str, torch.Tensor], processes: Processes
    ) -> list[float]:
        """What the main process saw, in all of them: the others give zeros."""
        numbers = torch.tensor(values, device=next(iter(parameters.values())).device)
        processes.all_reduce(numbers)
        return numbers.tolist()

    def store(self, step: int, parameters: Mapping[str, torch.Tensor]) -> None:
        """Take these weights for the best so far."""
        self.best_step = step
        self.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}

    @torch.no_grad()
    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        """Put the best weights into `parameters` and give their step; where none were kept all stays as it is."""
        if self.best_step is None:
            return step
        for name, parameter in parameters.items():
            parameter.copy_(self.weights[name])
        log.info("the weights after step %d of %d are the best and are returned", self.best_step, step)
        return self.best_step

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        about = {"best_step": torch.tensor([-1 if self.best_step is None else self.best_step])}
        return about | {BEST + name: tensor for name, tensor in self.weights.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        best = int(state["best_step"][0])
        self.best_step = None if best < 0 else best
        self.weights = {name.removeprefix(BEST): t for name, t in state.items() if name.startswith(BEST)}


class ValidatedCheckpoint(BestCheckpoint):
    """The best weights are those on the frontier between likeness and following prompts.

    Args:
        measure: called in the main process only.
        patience: validations in a row without a better one after which the training ends; 0 never ends it.
        likeness: of the references among themselves; see `selection.Anchors`.
    """

    def __init__(self, measure: Measure, every: int, last: int, patience: int = 0, likeness: float = 1.0):
        super().__init__(every, last)
        self.measure, self.patience = measure, patience
        self.seen = Curve((), likeness)

    @property
    def curve(self) -> Curve:
        return self.seen

    @property
    def steps(self) -> list[int]:
        return [point.step for point in self.seen.points]

    @property
    def is_over(self) -> bool:
        return self.seen.is_over(self.patience)

    def evaluate(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Validate, and keep the weights if no earlier ones were better."""
        values = self.measure(step) if processes.main else (0.0, 0.0, 0.0)
        point = Point(step, *self.broadcast(values, parameters, processes))
        self.seen = Curve((*self.seen.points, point), self.seen.likeness)
        if self.seen.best is point:
            self.store(step, parameters)
        log.info(
            "validation after step %d: subject %.4f, prompt %.4f, score %.3f",
            step, point.subject, point.prompt, self.seen.scores[-1],
        )  # fmt: skip
        if self.is_over:
            log.info("%d validations brought nothing better than step %s: enough", self.patience, self.best_step)

    def restore_best(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        if self.best_step is None:
            log.warning("no validation saw a gain in likeness to the pictures, so the last step is returned")
        return super().restore_best(step, parameters)

    def state(self) -> dict[str, torch.Tensor]:
        rows = [[p.step, p.subject, p.prompt, p.unrelated] for p in self.seen.points]
        about = {
            "points": torch.tensor(rows, dtype=torch.float64).reshape(-1, 4),
            "likeness": torch.tensor([self.seen.likeness], dtype=torch.float64),
        }
        return about | super().state()

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        points = tuple(Point(int(row[0]), *row[1:]) for row in state["points"].tolist())
        self.seen = Curve(points, float(state["likeness"][0]))
        super().load(state)


def write_readings(file: Path, readings: Mapping[str, Any]) -> None:
    """Write what a course saw, for people and for the node's text."""
    write_whole(file, (json.dumps(readings, indent=1) + "\n").encode())


def read_readings(file: Path) -> dict[str, Any]:
    """What a run's course wrote; nothing where it was removed."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        log.warning("the readings in %s cannot be read: %s", file, error)
        return {}
