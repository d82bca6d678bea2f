"""The one training loop. It knows losses by their names and nothing of what is learned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch.nn import Parameter

from ..models.adapters.learned_tokens import TokenConstraint
from .context import TrainingContext
from .distributed import Processes
from .health import Diverged, Divergence, SlowdownDetector, divergence_message
from .optim.optimizers import DISCRIMINATOR, FlatGradients, LearningRates, make_optimizer
from .passes import differentiable_passes
from .state.checkpoint import Checkpoints, State
from .state.clock import StepClock
from .state.rollback import Rollback
from .state.run_folder import Journal
from .validation.schedule import BestCheckpoint

log = logging.getLogger(__name__)

T = TypeVar("T")
Share = Callable[[Sequence[T]], list[T]]
NORM = "gradient_norm"


class Step(Protocol):
    """What one step computes."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The names of the loss terms that are computed, and what each is multiplied with."""
        ...

    def passes(self, step: int, share: Share) -> Iterator[Mapping[str, torch.Tensor]]:
        """What each pass of the denoiser adds to each term (scalars, fp32, unweighted), over `share` of the samples.

        All passes of all processes together add up to the terms. Everything drawn is a function of `step`.
        """
        ...


class Memory(Protocol):
    """What a method remembers from step to step besides the weights, so that a resumed run goes on as the uncut one."""

    def state(self, step: int) -> Mapping[str, torch.Tensor]:
        """What has to be known after `step` whole steps."""
        ...

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `state` gave."""
        ...


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    `visits` are (every, call): call(step) follows each `every` whole steps. `cut(step)` is called when training ends
    before its last step, with the weights after `step` whole steps in place. `best_checkpoint` validates, ends the
    training when nothing better comes, and keeps the best weights, which are in place when `train` returns. `memory` is
    saved with each state. `divergence` says when finite losses are those of a lost training. `slowdown` tells of steps
    that become slow; without one a new one does on a GPU, and none elsewhere, where other programs slow steps down.
    `differentiable` is the context of each pass with its backward pass.
    """

    steps: int
    rates: LearningRates
    weight_decay: float = 0.0
    optimizer: str = "adamw"
    rules: Mapping[str, TokenConstraint] = field(default_factory=dict)  # of learned words, by their parameters' names
    max_gradient_norm: float = 1.0
    save_every: int = 100
    log_every: int = 10
    scale_losses: bool = False  # fp16 gradients would vanish without
    visits: Sequence[tuple[int, Callable[[int], None]]] = ()
    cut: Callable[[int], None] | None = None
    best_checkpoint: BestCheckpoint | None = None
    memory: Memory | None = None
    divergence: Divergence | None = None
    slowdown: SlowdownDetector | None = None
    differentiable: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclass(frozen=True)
class Outcome:
    """Each term's loss at each step, unweighted; the step gone on from; seconds spent, earlier parts included.

    `chosen` is the step whose weights are in place: the last one, or the best that was validated.
    """

    terms: Mapping[str, tuple[float, ...]]
    resumed_from: int
    seconds: float
    chosen: int


def train(
    task: Step,
    parameters: Mapping[str, Parameter],
    plan: Plan,
    checkpoints: Checkpoints,
    journal: Journal,
    context: TrainingContext,
) -> Outcome:
    """Minimise the task's weighted losses over `parameters` (fp32), from the newest checkpoint on.

    Between log points nothing is copied to the host; on a CPU, where that costs nothing, every step is checked.
    However it ends, the state after the last whole step is saved.

    Raises:
        Diverged: a loss or gradient was not finite, or the losses are those of a lost training.
        BaseException: whatever `context.progress.check` raises.
    """
    progress, processes = context.progress, context.processes
    run = _Run(task.weights, parameters, plan, checkpoints, journal, processes)
    run.resume(checkpoints.latest())
    processes.barrier()
    resumed_from = run.step
    try:
        run.validate()
        for step in range(run.step, plan.steps):
            if plan.best_checkpoint is not None and plan.best_checkpoint.is_over:
                break
            progress.check()
            plan.rates.set(run.optimizer, step)
            run.gradients.zero()
            for terms in differentiable_passes(task.passes(step, processes.shard), plan.differentiable):
                run.backward(terms)
            processes.all_reduce(run.gradients.buffer)
            run.clip_and_record(step)
            if run.check_is_due(step):
                run.check(step)
            run.update()
            if _due(run.step, plan.log_every, plan.steps):
                run.log()
            run.validate()
            if _due(run.step, plan.save_every, plan.steps) and not run.rollback.is_high:
                run.save()
            progress.report(run.step, plan.steps, run.line, metrics=run.metrics)
            run.visit()
        run.complete = True
    finally:
        run.end()
    return Outcome(run.history(), resumed_from, run.clock.seconds(), run.choose())


def _due(done: int, every: int, last: int) -> bool:
    return done % every == 0 or done == last


@dataclass
class _Run:
    """What changes while the loop runs. `step` counts whole steps; `record` holds a row for each term and the norm."""

    weights: Mapping[str, float]
    parameters: Mapping[str, Parameter]
    plan: Plan
    checkpoints: Checkpoints
    journal: Journal
    processes: Processes
    step: int = 0
    saved: int = 0  # the step of the newest state on the disk
    checked: int = 0  # the step up to which losses were looked at
    logged: int = 0
    updating: bool = False
    complete: bool = False  # it came to its end, which may lie before the last step
    line: str = ""
    metrics: dict[str, float] = field(default_factory=dict)  # of the steps since the line before

    def __post_init__(self) -> None:
        members, plan = list(self.parameters.values()), self.plan
        if not members or not self.weights:
            raise ValueError("nothing to train: no parameters or no loss terms")
        if any(p.dtype != torch.float32 for p in members):
            raise ValueError("trained parameters must be float32")
        self.device = members[0].device
        self.rows = (*self.weights, NORM)
        self.optimizer = make_optimizer(self.parameters, plan.rates, plan.weight_decay, plan.optimizer, plan.rules)
        apart = [name.startswith(DISCRIMINATOR) for name in self.parameters]
        if sorted(apart) != apart:
            raise ValueError("a discriminator's parameters come last")
        self.gradients = FlatGradients(members, list(self.weights), sum(apart))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=plan.scale_losses)
        self.record = torch.zeros(len(self.rows), plan.steps, device=self.device)
        # on a CPU looking at a loss costs nothing, so each is looked at
        self.rollback = Rollback(self.parameters, plan.divergence, every_step=self.device.type == "cpu")
        self.slowdown = plan.slowdown or (SlowdownDetector() if self.device.type == "cuda" else None)
        self.clock = StepClock(self.device, plan.steps)

    # ------------------------------------------------------------------------------------------------- one step

    def backward(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add one pass's losses and gradients to the buffer."""
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        self.scaler.scale(total).backward()
        for name, value in terms.items():
            self.gradients.terms[name].add_(value.detach())

    def clip_and_record(self, step: int) -> None:
        """Clip, and keep the losses and the norm on the device."""
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
        self.record[-1, step] = self.gradients.clip(self.plan.max_gradient_norm)
        self.record[:-1, step] = self.gradients.buffer[self.gradients.gradients.numel() :]

    def check_is_due(self, step: int) -> bool:
        plan = self.plan
        if self.rollback.every_step or (plan.best_checkpoint is not None and plan.best_checkpoint.is_due(step + 1)):
            return True
        return _due(step + 1, plan.log_every, plan.steps) or _due(step + 1, plan.save_every, plan.steps)

    def check(self, step: int) -> None:
        """Look at the losses up to `step`, before its update. Raises Diverged, with the last good weights put back."""
        fresh = self.record[:, self.checked : step + 1].cpu()
        finite = fresh[:-1] if self.plan.scale_losses else fresh  # scaled gradients overflow now and then: skipped
        bad = (~finite.isfinite().all(0)).nonzero().flatten().tolist()
        if bad:
            values = dict(zip(self.rows, fresh[:, bad[0]].tolist(), strict=True))
            raise self._diverged(self.checked + bad[0], values)
        self.checked = step + 1
        values = self.rollback.judge(dict(zip(self.rows, self.record[:, : self.checked], strict=True)))
        if values is not None:
            raise self._diverged(step, values)
        if self.rollback.is_healthy:
            self.rollback.keep(self.step)

    def _diverged(self, where: int, values: Mapping[str, float]) -> Diverged:
        """With the last good weights put back."""
        self.step = self.rollback.restore(self.step)
        return Diverged(divergence_message(where, self.plan.steps, values, self.step, self.plan.rates.rates), self.step)

    def update(self) -> None:
        self.updating = True
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        self.step += 1
        self.updating = False

    # ----------------------------------------------------------------------------------------- logging, validating

    def history(self) -> dict[str, tuple[float, ...]]:
        rows = self.record[:-1, : self.step].cpu().tolist()
        return {name: tuple(row) for name, row in zip(self.weights, rows, strict=True)}

    def log(self) -> None:
        """A line for the log and one for who watches, over the steps since the last."""
        mean = self.record[:, self.logged : self.step].mean(1).tolist()
        speed, left = self.clock.interval(self.step)
        if self.slowdown is not None and self.processes.main and (slow := self.slowdown.observe(1 / speed)):
            log.warning("step %d: %s", self.step, slow)
        terms = dict(zip(self.rows, mean, strict=True))
        norm = terms.pop(NORM)
        loss = sum(self.weights[name] * value for name, value in terms.items())
        self.metrics = {"loss": loss, NORM: norm, **{f"loss/{name}": value for name, value in terms.items()}}
        self.line = f"step {self.step}/{self.plan.steps} · loss {loss:.4f} · {speed:.2f} steps/s · {left:.0f} s left"
        if self.processes.main:
            self.journal.add(
                step=self.step,
                loss=loss,
                terms=terms,
                gradient_norm=norm,
                learning_rate=self.plan.rates.at(self.step - 1),
                steps_per_second=speed,
                seconds_left=left,
            )
        self.logged = self.step

    def visit(self) -> None:
        """Call who wants to be called."""
        due = [call for every, call in self.plan.visits if self.step % every == 0]
        if due:
            with self.clock.apart(self.step), self.optimizer.ema():
                for call in due:
                    call(self.step)

    def validate(self) -> None:
        """A validation that is due, before the state is saved that holds it."""
        best_checkpoint = self.plan.best_checkpoint
        if best_checkpoint is not None and best_checkpoint.is_due(self.step):
            with self.clock.apart(self.step), self.optimizer.ema():
                best_checkpoint.evaluate(self.step, self.parameters, self.processes)

    def choose(self) -> int:
        """Put the best weights in place, where there was validation, else the last ones; gives their step."""
        best_checkpoint = self.plan.best_checkpoint
        self.optimizer.eval_weights()
        return self.step if best_checkpoint is None else best_checkpoint.restore_best(self.step, self.parameters)

    # ----------------------------------------------------------------------------------------- saving and resuming

    def save(self) -> None:
        """Save the state after the last whole step; a large one takes as long as many steps."""
        if self.processes.main:
            with self.clock.apart(self.step):
                self.checkpoints.save(self.state())
        self.saved = self.step

    def state(self) -> State:
        names = {id(p): name for name, p in self.parameters.items()}
        slots = self.optimizer.slots(names)
        rows = dict(zip(self.rows, self.record[:, : self.step], strict=True))
        extra = {**self.scaler.state_dict(), **self.optimizer.scalars()}
        best_checkpoint = self.plan.best_checkpoint.state() if self.plan.best_checkpoint is not None else {}
        memory = self.plan.memory.state(self.step) if self.plan.memory is not None else {}
        return State(self.step, self.parameters, slots, rows, extra, self.clock.seconds(), best_checkpoint, memory)

    def resume(self, state: State | None) -> None:
        """Take up a saved state, if there is one."""
        if state is not None:
            self._load(state)
        self.rollback.keep(self.step)

    def _load(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.weights[name])
        self.optimizer.load(self.parameters, state.slots, state.extra)
        for i, name in enumerate(self.rows):
            self.record[i, : state.step] = state.losses[name].to(self.device)
        if self.plan.scale_losses:
            self.scaler.load_state_dict({name: state.extra[name] for name in self.scaler.state_dict()})
        if self.plan.best_checkpoint is not None:
            self.plan.best_checkpoint.load(state.best_checkpoint)
        if self.plan.memory is not None:
            self.plan.memory.load(state.memory)
        self.step = self.saved = self.checked = self.logged = state.step
        self.clock.resume(state.step, state.seconds)

    def end(self) -> None:
        """Keep what was not kept. A step cut in the middle of its update leaves nothing: the state on disk holds."""
        if self.updating:
            return
        try:
            if self.checked < self.step:
                self.check(self.step - 1)
            if self.saved < self.step and not self.rollback.restored:
                self.save()
        finally:
            early = 0 < self.step < self.plan.steps and not self.complete
            if self.plan.cut and early and self.processes.main:
                with nullcontext() if self.rollback.restored else self.optimizer.ema():
                    self.plan.cut(self.step)
