"""Checkpoints from which a run resumes bit for bit.

The two newest are kept, so that a corrupt file never loses the last good one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...core.atomic import make_folder, read_tensors, write_tensors
from ...core.errors import FewShotError

log = logging.getLogger(__name__)

KEPT = 2  # checkpoints


@dataclass(frozen=True)
class State:
    """A run after `step` steps: the trained weights and the optimiser's slots by parameter name, and all losses so far.

    Random numbers and learning rates are functions of the step and need no place here. `seconds` were spent so far.
    `best_checkpoint` is the state of the `BestCheckpoint`, if any; `memory` the method's own state.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    slots: Mapping[str, Mapping[str, torch.Tensor]]
    losses: Mapping[str, torch.Tensor]
    extra: Mapping[str, float]
    seconds: float = 0.0
    best_checkpoint: Mapping[str, torch.Tensor] = field(default_factory=dict)
    memory: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Checkpoints:
    """The states of one run in one folder; `key` is the run's content key."""

    def __init__(self, folder: Path, key: str):
        self.folder = folder
        self.key = key

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("state_*.safetensors"), reverse=True)

    def tidy(self) -> None:
        """Remove drafts left by a killed process."""
        for draft in self.folder.glob(".*.draft"):
            draft.unlink()

    def save(self, state: State) -> Path:
        """Write the state; older ones are removed only after that."""
        tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
        for name, slots in state.slots.items():
            tensors |= {f"slots/{slot}/{name}": tensor for slot, tensor in slots.items()}
        tensors |= {f"losses/{name}": tensor for name, tensor in state.losses.items()}
        tensors |= {f"course/{name}": tensor for name, tensor in state.best_checkpoint.items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in state.memory.items()}
        about = {"step": state.step, "key": self.key, "seconds": state.seconds, "extra": dict(state.extra)}
        path = make_folder(self.folder) / f"state_{state.step:08d}.safetensors"
        write_tensors(path, tensors, {"state": json.dumps(about)})
        for old in self._files()[KEPT:]:
            old.unlink()
        return path

    def latest(self) -> State | None:
        """The newest readable state of this run; a corrupt one is logged."""
        for path in self._files():
            try:
                tensors, metadata = read_tensors(path)
            except FewShotError as error:
                log.warning("%s The state before it is used.", error)
                continue
            about = json.loads(metadata["state"])
            if about["key"] == self.key:
                return _state_from(tensors, about)
            log.warning("%s belongs to another run and is left alone.", path)
        return None


def _state_from(tensors: Mapping[str, torch.Tensor], about: Mapping) -> State:
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in ("weights", "losses", "course", "memory")}
    slots: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split("/", 1)
        if kind in parts:
            parts[kind][rest] = tensor
        else:
            slot, parameter = rest.split("/", 1)
            slots.setdefault(parameter, {})[slot] = tensor
    return State(
        about["step"],
        parts["weights"],
        slots,
        parts["losses"],
        about["extra"],
        about["seconds"],
        parts["course"],
        parts["memory"],
    )
