"""The course of a training through its validations: when it is looked at, when it ends, which weights it returns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from ..evaluation.frontier import Curve, Point

if TYPE_CHECKING:
    from .processes import Processes

log = logging.getLogger(__name__)

Measure = Callable[[int], tuple[float, float, float]]
"""Validate the weights as they are after that step: (subject, prompt, unrelated) of `Point`; NaN where it failed."""
BEST = "best/"


class Course:
    """Validates every `every` steps, before the first one and after the last; keeps the best weights on the host.

    Everything it decides is a function of its points, which all processes share and each saved state holds, so that a
    resumed run decides as the uncut one.

    Args:
        measure: called in the main process only.
        patience: validations in a row without a better one after which the training ends; 0 never ends it.
        likeness: of the references among themselves; see `frontier.Anchors`.
    """

    def __init__(self, measure: Measure, every: int, last: int, patience: int = 0, likeness: float = 1.0):
        self.measure, self.every, self.last, self.patience = measure, every, last, patience
        self.curve = Curve((), likeness)
        self.best_step: int | None = None
        self.weights: dict[str, torch.Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether there should be a point after `step` whole steps, and is none."""
        wanted = step % self.every == 0 or step == self.last
        return wanted and all(point.step != step for point in self.curve.points)

    @property
    def is_over(self) -> bool:
        return self.curve.is_over(self.patience)

    def visit(self, step: int, parameters: Mapping[str, torch.Tensor], processes: Processes) -> None:
        """Validate, and keep the weights if no earlier ones were better."""
        device = next(iter(parameters.values())).device
        values = torch.tensor(self.measure(step) if processes.main else (0.0, 0.0, 0.0), device=device)
        processes.add_up(values)  # the others add zeros: all know what the main process saw
        point = Point(step, *values.tolist())
        self.curve = Curve((*self.curve.points, point), self.curve.likeness)
        if self.curve.best is point:
            self.best_step = step
            self.weights = {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}
        log.info(
            "validation after step %d: subject %.4f, prompt %.4f, score %.3f",
            step, point.subject, point.prompt, self.curve.scores[-1],
        )  # fmt: skip
        if self.is_over:
            log.info("%d validations brought nothing better than step %s: enough", self.patience, self.best_step)

    @torch.no_grad()
    def settle(self, step: int, parameters: Mapping[str, torch.Tensor]) -> int:
        """Put the best weights into `parameters` and give their step; without any gain all stays as after `step`."""
        if self.best_step is None:
            log.warning("no validation saw a gain in likeness to the pictures, so the last step is returned")
            return step
        for name, parameter in parameters.items():
            parameter.copy_(self.weights[name])
        log.info("the weights after step %d of %d are the best and are returned", self.best_step, step)
        return self.best_step

    def state(self) -> dict[str, torch.Tensor]:
        """What a resumed run needs."""
        rows = [[p.step, p.subject, p.prompt, p.unrelated] for p in self.curve.points]
        about = {
            "points": torch.tensor(rows, dtype=torch.float64).reshape(-1, 4),
            "likeness": torch.tensor([self.curve.likeness], dtype=torch.float64),
            "best_step": torch.tensor([-1 if self.best_step is None else self.best_step]),
        }
        return about | {BEST + name: tensor for name, tensor in self.weights.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        points = tuple(Point(int(row[0]), *row[1:]) for row in state["points"].tolist())
        self.curve = Curve(points, float(state["likeness"][0]))
        best = int(state["best_step"][0])
        self.best_step = None if best < 0 else best
        self.weights = {name.removeprefix(BEST): t for name, t in state.items() if name.startswith(BEST)}
