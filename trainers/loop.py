"""The one training loop. It knows losses by their names and nothing of what is learned."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch.nn import Parameter

from ..core.progress import NullProgress, Progress
from ..models.adapters.learned_tokens import TokenConstraint
from .distributed import Processes, SingleProcess
from .health import START, WINDOW, Diverged, Divergence, divergence_message
from .optim.optimizers import DISCRIMINATOR, FlatGradients, LearningRates, make_optimizer
from .slowdown import SlowdownDetector
from .state.checkpoint import Checkpoints, State
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
    before its last step, with the weights after `step` whole steps in place. `course` validates, ends the training when
    nothing better comes, and keeps the best weights, which are in place when `train` returns. `memory` is saved with
    each state. `divergence` says when finite losses are those of a lost training. `pace` says when steps become slow;
    without one a new one does on a GPU, and none elsewhere, where other programs make steps slow.
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
    course: BestCheckpoint | None = None
    memory: Memory | None = None
    divergence: Divergence | None = None
    pace: SlowdownDetector | None = None


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
    progress: Progress | None = None,
    processes: Processes | None = None,
) -> Outcome:
    """Minimise the task's weighted losses over `parameters` (fp32), from the newest checkpoint on.

    Between log points nothing is copied to the host; on a CPU, where that costs nothing, every step is checked.
    However it ends, the state after the last whole step is saved.

    Raises:
        Diverged: a loss or gradient was not finite, or the losses are those of a lost training.
        BaseException: whatever `progress.check` raises.
    """
    progress, processes = progress or NullProgress(), processes or SingleProcess()
    run = _Run(task.weights, parameters, plan, checkpoints, journal, processes)
    run.go_on(checkpoints.latest())
    processes.barrier()
    resumed_from = run.first = run.step
    try:
        run.validate()
        for step in range(run.step, plan.steps):
            if run.enough:
                break
            progress.check()
            plan.rates.set(run.optimizer, step)
            run.gradients.zero()
            for terms in task.passes(step, processes.shard):
                run.backward(terms)
            processes.all_reduce(run.gradients.buffer)
            run.clip_and_note(step)
            if run.check_is_due(step):
                run.check(step)
            run.update()
            if _due(run.step, plan.log_every, plan.steps):
                run.tell()
            run.validate()
            if _due(run.step, plan.save_every, plan.steps) and not run.high:
                run.save()
            progress.report(run.step, plan.steps, run.line)
            run.visit()
        run.complete = True
    finally:
        run.end()
    return Outcome(run.history(), resumed_from, run.seconds(), run.choose())


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
    saved: int = 0
    checked: int = 0
    told: int = 0
    updating: bool = False
    complete: bool = False  # it came to its end, which may lie before the last step
    spoiled: bool = False  # the optimiser took in values that were not finite
    line: str = ""
    before: float = 0.0
    first: int = 0  # the step that this process began with
    aside: float = 0.0  # seconds since then of what is no step
    good: list[torch.Tensor] = field(default_factory=list)
    high: bool = False  # losses, at the last check
    well: bool = True  # so that the weights may be returned to

    def __post_init__(self) -> None:
        members = list(self.parameters.values())
        if not members or not self.weights:
            raise ValueError("nothing to train: no parameters or no loss terms")
        if any(p.dtype != torch.float32 for p in members):
            raise ValueError("trained parameters must be float32")
        self.device = members[0].device
        self.watched = self.device.type == "cpu"  # looking at a loss costs nothing, so each is looked at
        self.rows = (*self.weights, NORM)
        plan = self.plan
        self.optimizer = make_optimizer(self.parameters, plan.rates, plan.weight_decay, plan.optimizer, plan.rules)
        apart = [name.startswith(DISCRIMINATOR) for name in self.parameters]
        if sorted(apart) != apart:
            raise ValueError("a discriminator's parameters come last")
        self.gradients = FlatGradients(members, list(self.weights), sum(apart))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.plan.scale_losses)
        self.record = torch.zeros(len(self.rows), self.plan.steps, device=self.device)
        self.pace = plan.pace or (SlowdownDetector() if self.device.type == "cuda" else None)
        self.begun = self.told_at = time.monotonic()

    # ------------------------------------------------------------------------------------------------- one step

    def backward(self, terms: Mapping[str, torch.Tensor]) -> None:
        """Add one pass's losses and gradients to the buffer."""
        total = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        self.scaler.scale(total).backward()
        for name, value in terms.items():
            self.gradients.terms[name].add_(value.detach())

    def clip_and_note(self, step: int) -> None:
        """Clip, and keep the losses and the norm on the device."""
        self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
        self.record[-1, step] = self.gradients.clip(self.plan.max_gradient_norm)
        self.record[:-1, step] = self.gradients.buffer[self.gradients.gradients.numel() :]

    def check_is_due(self, step: int) -> bool:
        plan = self.plan
        if self.watched or (plan.course is not None and plan.course.is_due(step + 1)):
            return True
        return _due(step + 1, plan.log_every, plan.steps) or _due(step + 1, plan.save_every, plan.steps)

    def check(self, step: int) -> None:
        """Look at the losses up to `step`, before its update. Raises Diverged, with the last good weights put back."""
        fresh = self.record[:, self.checked : step + 1].cpu()
        finite = fresh[:-1] if self.plan.scale_losses else fresh  # scaled gradients overflow now and then: skipped
        bad = (~finite.isfinite().all(0)).nonzero().flatten().tolist()
        if bad:
            where = self.checked + bad[0]
            values = dict(zip(self.rows, fresh[:, bad[0]].tolist(), strict=True))
            raise self._diverged(where, values)
        self.checked = step + 1
        self._judge()
        if self.well:
            self._remember()

    def _judge(self) -> None:
        """See whether the losses are those of a lost training. Raises Diverged, with the last good weights put back."""
        rule = self.plan.divergence
        if rule is None:
            return
        errors = rule.errors(dict(zip(self.rows, self.record[:, : self.checked], strict=True)))
        self.high, self.well = rule.is_high(errors), rule.is_well(errors)
        if rule.is_lost(errors):
            begun, now = float(errors[:START].median()), float(errors[-WINDOW:].median())
            values = {"loss now": now, "at the start": begun, "of a denoiser that predicts nothing": 1.0}
            raise self._diverged(self.checked - 1, values)

    def update(self) -> None:
        self.updating = True
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]
        self.scaler.update()
        self.step += 1
        self.updating = False

    def _remember(self) -> None:
        """Keep the weights, which are known to be good; where each step is checked before its update, now and then."""
        if not self.watched or (self.plan.divergence is not None and not (self.good and self.step % WINDOW)):
            now = [p.detach() for p in self.parameters.values()]
            self.good = self.good or [torch.empty_like(p) for p in now]  # never two copies at once
            for kept, value in zip(self.good, now, strict=True):
                kept.copy_(value)
            self.good_step = self.step

    def _put_back(self) -> None:
        """The weights that were last known to be good: those of now, if all was well until this step was checked."""
        if self.good and not (self.watched and self.well):
            with torch.no_grad():
                for parameter, value in zip(self.parameters.values(), self.good, strict=True):
                    parameter.copy_(value)
            self.step, self.spoiled = self.good_step, True

    def _diverged(self, where: int, values: Mapping[str, float]) -> Diverged:
        """With the last good weights put back."""
        self._put_back()
        return Diverged(divergence_message(where, self.plan.steps, values, self.step, self.plan.rates.rates), self.step)

    # -------------------------------------------------------------------------------------------- telling, saving

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.begun

    def history(self) -> dict[str, tuple[float, ...]]:
        rows = self.record[:-1, : self.step].cpu().tolist()
        return {name: tuple(row) for name, row in zip(self.weights, rows, strict=True)}

    def tell(self) -> None:
        """A line for the log and one for the watcher, over the steps since the last."""
        now = time.monotonic()
        mean = self.record[:, self.told : self.step].mean(1).tolist()
        speed = (self.step - self.told) / max(now - self.told_at, 1e-9)
        left = (self.plan.steps - self.step) * (1 / speed + self.aside / max(1, self.step - self.first))
        if self.pace is not None and self.processes.main and (slow := self.pace.observe(1 / speed)):
            log.warning("step %d: %s", self.step, slow)
        terms = dict(zip(self.rows, mean, strict=True))
        norm = terms.pop(NORM)
        loss = sum(self.weights[name] * value for name, value in terms.items())
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
        self.told, self.told_at = self.step, now

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What is no step: its time counts for the time left alone. On a GPU steps under way come to their end."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        begun = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - begun
            self.told_at += took
            self.aside += took if self.step > self.first else 0.0

    def visit(self) -> None:
        """Call who wants to be called."""
        due = [call for every, call in self.plan.visits if self.step % every == 0]
        if due:
            with self.apart(), self.optimizer.ema():
                for call in due:
                    call(self.step)

    @property
    def enough(self) -> bool:
        """Whether the validations say that nothing better comes."""
        return self.plan.course is not None and self.plan.course.is_over

    def validate(self) -> None:
        """A validation that is due, before the state is saved that holds it."""
        course = self.plan.course
        if course is not None and course.is_due(self.step):
            with self.apart(), self.optimizer.ema():
                course.evaluate(self.step, self.parameters, self.processes)

    def choose(self) -> int:
        """Put the best weights in place, where there was validation, else the last ones; gives their step."""
        course = self.plan.course
        self.optimizer.eval_weights()
        return self.step if course is None else course.restore_best(self.step, self.parameters)

    def save(self) -> None:
        """Save the state after the last whole step; a large one takes as long as many steps."""
        if self.processes.main:
            with self.apart():
                self.checkpoints.save(self.state())
        self.saved = self.step

    def state(self) -> State:
        names = {id(p): name for name, p in self.parameters.items()}
        slots = self.optimizer.slots(names)
        rows = dict(zip(self.rows, self.record[:, : self.step], strict=True))
        extra = {**self.scaler.state_dict(), **self.optimizer.scalars()}
        course = self.plan.course.state() if self.plan.course is not None else {}
        memory = self.plan.memory.state(self.step) if self.plan.memory is not None else {}
        return State(self.step, self.parameters, slots, rows, extra, self.seconds(), course, memory)

    def go_on(self, state: State | None) -> None:
        """Take up a saved state, if there is one."""
        if state is not None:
            self._load(state)
        self._remember()

    def _load(self, state: State) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.weights[name])
        self.optimizer.load(self.parameters, state.slots, state.extra)
        for i, name in enumerate(self.rows):
            self.record[i, : state.step] = state.losses[name].to(self.device)
        if self.plan.scale_losses:
            self.scaler.load_state_dict({name: state.extra[name] for name in self.scaler.state_dict()})
        if self.plan.course is not None:
            self.plan.course.load(state.course)
        if self.plan.memory is not None:
            self.plan.memory.load(state.memory)
        self.step = self.saved = self.checked = self.told = state.step
        self.before = state.seconds

    def end(self) -> None:
        """Keep what was not kept. A step cut in the middle of its update leaves nothing: the state on disk holds."""
        if self.updating:
            return
        try:
            if self.checked < self.step:
                self.check(self.step - 1)
            if self.saved < self.step and not self.spoiled:
                self.save()
        finally:
            early = 0 < self.step < self.plan.steps and not self.complete
            if self.plan.cut and early and self.processes.main:
                with nullcontext() if self.spoiled else self.optimizer.ema():
                    self.plan.cut(self.step)
