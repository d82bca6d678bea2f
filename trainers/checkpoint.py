"""Files that are either whole or not there, and the states of a run from which it goes on bit for bit.

A file is written under a draft's name beside its place, brought to the disk, read back, and only then renamed. The two
newest states are kept, so that a broken file never loses the last good one.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..models.errors import FewShotError

log = logging.getLogger(__name__)

KEPT = 2


def write_whole(path: Path, data: bytes) -> Path:
    """Write `data` to `path` in one piece, replacing what was there only when all of it is on the disk.

    Raises:
        FewShotError: the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise FewShotError(
            f"could not write {path} ({len(data) / 1e6:.1f} MB): {error.strerror or error}. "
            "Free space on the disk or choose a folder that can be written, then start again: finished work is kept."
        ) from error
    finally:
        if draft.exists():
            draft.unlink()
    return path


def make_folder(path: Path) -> Path:
    """Make the folder and those above it.

    Raises:
        FewShotError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FewShotError(
            f"could not make the folder {path}: {error.strerror or error}. Choose one that can be written."
        ) from error
    return path


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file in one piece, with a checksum of its tensors in the metadata."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    return write_whole(path, save(plain, metadata={**metadata, "checksum": _checksum(plain)}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What `write_tensors` wrote.

    Raises:
        FewShotError: the file is torn, altered or of another kind.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise FewShotError(f"cannot read {path}: {error}. Delete it to go on without it.") from error
    if metadata.get("checksum") != _checksum(tensors):
        raise FewShotError(f"{path} was altered after it was written. Delete it to go on without it.")
    return tensors, metadata


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"


@dataclass(frozen=True)
class State:
    """A run after `step` steps: the trained weights and the optimiser's slots by parameter name, and all losses so far.

    Random numbers and learning rates are functions of the step and need no place here. `seconds` were spent so far.
    `course` holds the validations so far and the best weights among them, where there is validation; `memory` what else
    the method remembers from step to step.
    """

    step: int
    weights: Mapping[str, torch.Tensor]
    slots: Mapping[str, Mapping[str, torch.Tensor]]
    losses: Mapping[str, torch.Tensor]
    extra: Mapping[str, float]
    seconds: float = 0.0
    course: Mapping[str, torch.Tensor] = field(default_factory=dict)
    memory: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Checkpoints:
    """The states of one run in one folder; `key` is the run's content key."""

    def __init__(self, folder: Path, key: str):
        self.folder = folder
        self.key = key

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("state_*.safetensors"), reverse=True)

    def tidy(self) -> None:
        """Remove drafts that a killed process left."""
        for draft in self.folder.glob(".*.draft"):
            draft.unlink()

    def save(self, state: State) -> Path:
        """Write the state; older ones go only when it is in place."""
        tensors = {f"weights/{name}": tensor for name, tensor in state.weights.items()}
        for name, slots in state.slots.items():
            tensors |= {f"slots/{slot}/{name}": tensor for slot, tensor in slots.items()}
        tensors |= {f"losses/{name}": tensor for name, tensor in state.losses.items()}
        tensors |= {f"course/{name}": tensor for name, tensor in state.course.items()}
        tensors |= {f"memory/{name}": tensor for name, tensor in state.memory.items()}
        about = {"step": state.step, "key": self.key, "seconds": state.seconds, "extra": dict(state.extra)}
        path = make_folder(self.folder) / f"state_{state.step:08d}.safetensors"
        write_tensors(path, tensors, {"state": json.dumps(about)})
        for old in self._files()[KEPT:]:
            old.unlink()
        return path

    def latest(self) -> State | None:
        """The newest state that can be read and belongs to this run; a broken one is named in the log."""
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
