"""Optimizers, learning-rate schedules, and one flat buffer for all gradients."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ...core.errors import FewShotError
from ...models.adapters.learned_tokens import GROUP, TokenConstraint
from ...models.public_names import DENOISER_ROOT, HOSTED_ROOT
from ..settings.common import WARMUP_STABLE_DECAY
from .token_optimizers import BoundedAdamW, RiemannianDescent

# The library of each optimizer.
OPTIMIZERS = {"adamw": "torch", "adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}
DECAY = 1 / 3  # of the steps, at the end of warmup_stable_decay
DISCRIMINATOR = "discriminator"
# Options of a discriminator's optimizer: no momentum (Karras et al. 2018).
DISCRIMINATOR_OPTIONS = {"betas": (0.0, 0.99)}


@dataclass(frozen=True)
class LearningRates:
    """The learning rate of each parameter group, and its schedule."""

    rates: Mapping[str, float]
    steps: int
    warmup: int = 0
    schedule: str = "constant"

    def factor(self, step: int) -> float:
        """The schedule's factor at `step` (from 0): a linear warm-up, then the schedule.

        warmup_stable_decay (Hu et al. 2024, arXiv:2404.06395) is constant, and linear to zero over the last third.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.schedule == "constant":
            return 1.0
        if self.schedule == WARMUP_STABLE_DECAY:
            return min(1.0, (self.steps - step) / (DECAY * self.steps))
        gone = (step - self.warmup) / max(1, self.steps - self.warmup)
        return 1.0 - gone if self.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * gone))

    def at(self, step: int) -> dict[str, float]:
        return {group: rate * self.factor(step) for group, rate in self.rates.items()}

    def set(self, optimizer: OptimizerGroup, step: int) -> None:
        """Set the learning rate of each of the optimizer's groups for `step`."""
        rates = self.at(step)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]


class OptimizerGroup:
    """One optimizer for each parameter group, used as one. Its state is `scalars` and `slots`."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]):
        self.parts = tuple(parts)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Any, dict[str, Any]]:
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    @torch.no_grad()
    def step(self) -> None:
        for part in self.parts:
            part.step()

    @contextmanager
    def ema(self) -> Iterator[None]:
        """Within this context parameters hold the averaged weights; afterwards the training weights, bit for bit.

        They differ only where the optimizer averages (schedule-free).
        """
        parts = [part for part in self.parts if hasattr(part, "eval")]
        kept = [(p, p.detach().clone()) for part in parts for group in part.param_groups for p in group["params"]]
        self.eval_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for part in parts:
                    part.train()  # type: ignore[attr-defined]
                for parameter, value in kept:
                    parameter.copy_(value)

    def eval_weights(self) -> None:
        """Switch parameters to the averaged weights for good."""
        for part in self.parts:
            if hasattr(part, "eval"):
                part.eval()

    # ------------------------------------------------------------------------------------------------------- saving

    def slots(self, names: Mapping[int, str]) -> dict[str, dict[str, Tensor]]:
        """The state tensors of each parameter, by its name; scalars as marked 0-dimensional tensors."""
        return {
            names[id(parameter)]: dict(_as_tensor(key, value) for key, value in state.items())
            for parameter, state in self.state.items()
        }

    def scalars(self) -> dict[str, float]:
        """The state of each group: scalars that some optimizers change."""
        return {
            f"{group['name']}/{key}": value
            for group in self.param_groups
            for key, value in group.items()
            if key != "lr" and type(value) in (int, float)
        }

    def load(
        self, parameters: Mapping[str, Parameter], slots: Mapping[str, Mapping[str, Tensor]], scalars: Mapping[str, Any]
    ) -> None:
        """Restore what `slots` and `scalars` returned."""
        owner = {id(p): part for part in self.parts for group in part.param_groups for p in group["params"]}
        for name, state in slots.items():
            parameter = parameters[name]
            values = dict(_from_tensor(key, value, parameter.device) for key, value in state.items())
            owner[id(parameter)].state[parameter] = values
        for group in self.param_groups:
            saved = {key: scalars.get(f"{group['name']}/{key}") for key, value in group.items()}
            group.update({key: type(group[key])(value) for key, value in saved.items() if value is not None})


# Marks a slot that is a Python number.
SCALAR = "#"


def _as_tensor(key: str, value: Any) -> tuple[str, Tensor]:
    if isinstance(value, Tensor):
        return key, value
    return key + SCALAR, torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)


def _from_tensor(key: str, value: Tensor, device: torch.device) -> tuple[str, Any]:
    if key.endswith(SCALAR):
        return key.removesuffix(SCALAR), value.item()
    return key, value.to(device)


def make_optimizer(
    parameters: Mapping[str, Parameter],
    rates: LearningRates,
    weight_decay: float = 0.0,
    kind: str = "adamw",
    rules: Mapping[str, TokenConstraint] | None = None,
) -> OptimizerGroup:
    """One optimizer of `kind` for each group of `rates`; learned tokens and discriminators have their own kinds.

    A parameter belongs to the group whose name its own begins with. "adamw" is AdamW (Loshchilov & Hutter 2019),
    "adamw_8bit" the same with 8-bit moments (Dettmers et al. 2022), "prodigy" finds the step size itself and takes the
    learning rate as its factor (Mishchenko & Defazio 2024), "schedule_free" averages in place of a schedule (Defazio et
    al. 2024).

    Raises:
        FewShotError: the optimizer's library is not installed, or does not work on this device.
    """
    parts: list[torch.optim.Optimizer] = []
    rules = rules or {}
    groups = {name: _group_of(name, rates.rates) for name in parameters}
    for group, rate in rates.rates.items():
        members = {name: p for name, p in parameters.items() if groups[name] == group}
        if group == GROUP:
            parts += _token_optimizers(members, rate, rules)
        elif members:
            own = {"name": group, "params": list(members.values()), "lr": rate}
            if group == DISCRIMINATOR:
                parts.append(_weight_optimizer("adamw", own | DISCRIMINATOR_OPTIONS, 0.0))
            else:
                parts.append(_weight_optimizer(kind, own, weight_decay))
    return OptimizerGroup(parts)


def _group_of(name: str, groups: Iterable[str]) -> str:
    """Which of the groups a parameter is of; ValueError for none. A denoiser has one name here and another in files."""
    root = name.partition(".")[0]
    own = (root, DENOISER_ROOT) if root == HOSTED_ROOT else (root,)
    found = next((group for group in groups if any(one.startswith(group) for one in own)), None)
    if found is None:
        raise ValueError(f"no learning rate for {name}")
    return found


def _token_optimizers(members: Mapping[str, Parameter], rate: float, rules: Mapping[str, TokenConstraint]) -> list:
    starts = {id(p): start for name, p in members.items() if (start := rules[name].start) is not None}
    max_norms = {id(p): most for name, p in members.items() if (most := rules[name].max_norm) is not None}
    directions, free = ([p for p in members.values() if id(p) in ids] for ids in (starts, max_norms))
    made: list[torch.optim.Optimizer] = []
    if directions:
        made.append(RiemannianDescent([{"name": GROUP, "params": directions, "lr": rate}], starts))
    if free:
        made.append(BoundedAdamW([{"name": GROUP, "params": free, "lr": rate}], max_norms))
    return made


def _weight_optimizer(kind: str, group: dict[str, Any], weight_decay: float) -> torch.optim.Optimizer:
    """The optimizer of one group."""
    devices = {p.device.type for p in group["params"]}
    if kind == "adamw":
        return torch.optim.AdamW([group], weight_decay=weight_decay, fused=devices <= {"cpu", "cuda"})
    library = OPTIMIZERS[kind]
    if importlib.util.find_spec(library) is None:
        raise FewShotError(
            f"the optimiser {kind} needs the package {library}, which is not installed: pip install {library}, or "
            "choose adamw"
        )
    if kind == "adamw_8bit":
        return _eight_bit(group, weight_decay, devices)
    if kind == "prodigy":
        from prodigyopt import Prodigy

        made = Prodigy([group], lr=group["lr"], use_bias_correction=True, safeguard_warmup=True)
        made.param_groups[0]["weight_decay"] = weight_decay  # its constructor prints when it is given one
        return made
    from schedulefree import AdamWScheduleFree

    averaging = AdamWScheduleFree([group], lr=group["lr"], weight_decay=weight_decay)
    averaging.train()
    return averaging


def _eight_bit(group: dict[str, Any], weight_decay: float, devices: set[str]) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, by bitsandbytes."""
    if devices != {"cuda"}:
        raise FewShotError(
            f"the optimiser adamw_8bit works on a CUDA device, and this training runs on {', '.join(devices)}: choose "
            "adamw"
        )
    from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found]

    return AdamW8bit([group], weight_decay=weight_decay)


class FlatGradients:
    """All gradients, followed by one value for each loss term, in one fp32 buffer.

    Zeroing, clipping and all-reduce are then one operation each. The last `discriminator` parameters are those of a
    discriminator, whose gradients are clipped separately.
    """

    def __init__(self, parameters: Sequence[Parameter], terms: Sequence[str], discriminator: int = 0):
        size = sum(p.numel() for p in parameters)
        device = parameters[0].device
        self.buffer = torch.zeros(size + len(terms), dtype=torch.float32, device=device)
        self.gradients = self.buffer[:size]
        self.terms = {name: self.buffer[size + i] for i, name in enumerate(terms)}
        start = 0
        for parameter in parameters:
            parameter.grad = self.buffer[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        last = sum(p.numel() for p in parameters[len(parameters) - discriminator :])
        self.groups = [part for part in self.gradients.split([size - last, last]) if part.numel()]

    def zero(self) -> None:
        self.buffer.zero_()

    def clip(self, max_norm: float) -> torch.Tensor:
        """Clip the gradients' norm to `max_norm`; returns the norm before, on the device."""
        norms = [torch.linalg.vector_norm(group) for group in self.groups]
        for group, norm in zip(self.groups, norms, strict=True):
            group.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norms[0]
