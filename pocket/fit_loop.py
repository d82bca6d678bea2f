"""The training loop of all the pocket's models: a schedule in minutes, averaged weights (EMA), resumable.

It is independent of what is trained: a model gives its module and a function `loss(step) -> (tensor, figures)`.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

log = logging.getLogger(__name__)
SAVE_EVERY, REPORT_EVERY = 120.0, 20.0  # seconds
ALL_BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH)


class WeightAverage:
    """Exponential moving average of a module's parameters; the decay grows with the number of updates."""

    def __init__(self, module: torch.nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.tensors = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module):
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        pairs = [(self.tensors[name], p) for name, p in module.named_parameters()]
        torch._foreach_lerp_([a for a, _ in pairs], [p.detach() for _, p in pairs], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module):
        for name, p in module.named_parameters():
            p.copy_(self.tensors[name])


def _save(path: Path, module, average, optimizer, step: int, seconds: float):
    tensors = {f"model.{n}": t.detach().contiguous() for n, t in module.state_dict().items()}
    tensors |= {f"average.{n}": t.contiguous() for n, t in average.tensors.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value).contiguous() for key, value in state.items()}
    draft = path.with_suffix(".part")
    save_file(tensors, draft, {"step": str(step), "seconds": str(seconds), "updates": str(average.updates)})
    draft.replace(path)


def _load(path: Path, module, average, optimizer) -> tuple[int, float]:
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    module.load_state_dict({k[6:]: t for k, t in tensors.items() if k.startswith("model.")})
    average.tensors = {k[8:]: t for k, t in tensors.items() if k.startswith("average.")}
    average.updates = int(meta["updates"])
    state: dict[int, dict] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(meta["step"]), float(meta["seconds"])


@dataclass(frozen=True)
class FitSettings:
    """The optimization. The learning rate warms up over `warmup` steps and then decays by a cosine to 2 %."""

    learning_rate: float
    warmup: int = 200
    decay: float = 0.999  # of the averaged weights
    weight_decay: float = 1e-2
    clip: float = 1.0  # gradient norm


def fit(
    module: torch.nn.Module,
    loss: Callable[[int], tuple[torch.Tensor, dict[str, float]]],
    settings: FitSettings,
    state: Path,
    minutes: float,
) -> None:
    """Train `module` in place for `minutes` of its own training time, counted over all resumed runs.

    The learning rate reaches its lowest value as the minutes run out. At the end the module holds the averaged
    weights. `state` is the resumable state file.
    """
    rate = settings.learning_rate
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    # On a CPU the fused attention's backward pass takes a third of a step; plain products are 1.5 times faster in all.
    attention = [SDPBackend.MATH] if parameters[0].device.type == "cpu" else list(ALL_BACKENDS)
    average = WeightAverage(module, settings.decay)
    step, before = _load(state, module, average, optimizer) if state.exists() else (0, 0.0)
    state.parent.mkdir(parents=True, exist_ok=True)
    module.train()
    started = last_save = last_report = time.monotonic()
    while (seconds := before + time.monotonic() - started) < minutes * 60:
        share = seconds / (minutes * 60)
        factor = min(1.0, (step + 1) / settings.warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        with sdpa_kernel(attention):
            value, figures = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(module)
        step += 1
        now = time.monotonic()
        if now - last_report > REPORT_EVERY:
            last_report = now
            line = {"step": step, "minutes": round(seconds / 60, 2), "loss": round(float(value.detach()), 5), **figures}
            log.info(json.dumps(line))
        if now - last_save > SAVE_EVERY:
            last_save = now
            _save(state, module, average, optimizer, step, seconds)
    _save(state, module, average, optimizer, step, before + time.monotonic() - started)
    average.copy_to(module)
    module.eval()
