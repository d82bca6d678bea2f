"""The folder of a run: settings.json, log.jsonl, checkpoints/, samples/, and its result.

A run is identified by its content key, not by its name: a finished run with the same key is returned, an interrupted
one is resumed.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.metadata
import json
import logging
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...core.atomic import make_folder, read_tensors, write_tensors, write_whole
from ...core.errors import FewShotError
from ...core.values import Adapter, Dense, Factor, Kept, LowRank

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")
SHORT = 12  # hexadecimal digits of the key in the folder's name
RESULT = {"key", "losses", "terms", "seconds", "chosen", "validation"}  # keys of result.json
SPARE = 50_000_000  # bytes of free disk required beyond what is known to be written


class Journal:
    """log.jsonl: one JSON object a line, each with its step."""

    def __init__(self, path: Path):
        self.path = path

    def add(self, **values: Any) -> None:
        line = json.dumps({"time": round(time.time(), 3), **values})
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            why = error.strerror or error
            raise FewShotError(f"could not write {self.path}: {why}. Free space on the disk.") from error

    def cut(self, step: int) -> None:
        """Remove lines of steps after `step`, and a torn line."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError):
                log.warning("%s held a torn line, which was dropped", self.path)
        write_whole(self.path, "".join(kept).encode())


@dataclass(frozen=True)
class RunFolder:
    """One run's folder."""

    folder: Path
    key: str

    @property
    def name(self) -> str:
        """The name it was started with."""
        return self.folder.name[: -SHORT - 1]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The settings that the run was made with, everything left open chosen; none where its file is damaged."""
        try:
            return json.loads((self.folder / "settings.json").read_text(encoding="utf-8"))["inputs"]["chosen"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s holds no readable settings.json: %r", self.folder, error)
            return {}

    @property
    def journal(self) -> Journal:
        return Journal(self.folder / "log.jsonl")

    @property
    def lora(self) -> Path:
        """The LoRA file of a finished run."""
        return self.folder / f"{self.name}.safetensors"

    def part(self, step: int) -> Path:
        """The LoRA file of a run interrupted after `step` steps."""
        return self.folder / f"{self.name}_step_{step:08d}.safetensors"

    @property
    def model(self) -> Path:
        """The checkpoint of a run that trained the whole denoiser."""
        return self.folder / f"{self.name}_model.safetensors"

    def validated(self, step: int) -> Path:
        """The LoRA file of a validated step, where those are kept."""
        return self.folder / "validated" / self.part(step).name

    def parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{glob.escape(self.name)}_step_????????*.safetensors"))

    @property
    def _adapter(self) -> Path:
        return self.checkpoints / "adapter.safetensors"

    @property
    def _result(self) -> Path:
        return self.folder / "result.json"

    def finish(self, adapter: Adapter, result: Mapping[str, Any]) -> None:
        """Write the result: first the adapter, then the file that marks the run as finished."""
        write_adapter(self._adapter, adapter)
        write_whole(self._result, json.dumps({"key": self.key, **result}).encode())

    def finished(self) -> tuple[Adapter, dict[str, Any]] | None:
        """The result of a finished run; a corrupt one is logged and trained again."""
        if not self._result.exists():
            return None
        try:
            result = json.loads(self._result.read_text(encoding="utf-8"))
            if not isinstance(result, dict) or not RESULT <= set(result):
                raise ValueError(f"{self._result.name} does not hold {', '.join(sorted(RESULT))}")
            return read_adapter(self._adapter), result
        except (FewShotError, ValueError) as error:
            log.warning("the finished run in %s cannot be read and is trained again: %s", self.folder, error)
            return None


def find_run(runs: Path, key: str) -> RunFolder | None:
    """The run with this key in the folder of runs, whatever its name; one that ended wins."""
    found = []
    for folder in sorted(runs.glob(f"*_{key[:SHORT]}")):
        try:
            if json.loads((folder / "settings.json").read_text(encoding="utf-8"))["key"] == key:
                found.append(RunFolder(folder, key))
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s holds no readable settings.json and is left alone (%s)", folder, error)
    return max(found, key=lambda run: run._result.exists(), default=None)


def open_run(runs: Path, name: str, key: str, inputs: Mapping[str, Any], needed: int = 0) -> RunFolder:
    """The run with this key, found or made as <runs>/<name>_<key12>/ with its settings.json.

    Args:
        inputs: everything the run was started with, for people to read.
        needed: bytes that will be written.

    Raises:
        FewShotError: the name is no plain name, or the folder cannot be written or has no space left.
    """
    if not name or name != Path(name).name or name in (".", "..") or "\\" in name:
        raise FewShotError(f"a run cannot be named {name!r}: use a plain name without folders.")
    run = find_run(runs, key) or RunFolder(runs / f"{name}_{key[:SHORT]}", key)
    make_folder(run.folder)
    free = shutil.disk_usage(run.folder).free
    if free < needed + SPARE:
        raise FewShotError(
            f"only {free / 1e6:.0f} MB are free where {run.folder} lies, and the run writes about "
            f"{(needed + SPARE) / 1e6:.0f} MB. Free space on the disk or choose another output folder."
        )
    write_whole(run.folder / "settings.json", _described(name, key, inputs))
    return run


def _described(name: str, key: str, inputs: Mapping[str, Any]) -> bytes:
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    about = {
        "name": name,
        "key": key,
        "inputs": _readable(inputs),
        "versions": {"python": platform.python_version(), **versions},
        "machine": {"platform": platform.platform(), "threads": torch.get_num_threads()},
    }
    return (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()


def _readable(value: Any) -> Any:
    """`value` as JSON for people: dataclasses by field, everything unknown as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _readable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _readable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(v) for v in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


# ----------------------------------------------------------------------------------------- adapters kept exactly


def write_adapter(path: Path, adapter: Adapter) -> Path:
    """Keep an adapter as it is, in full precision: what a run returns the second time equals the first."""
    tensors: dict[str, torch.Tensor] = {
        f"embedding|{word}|{kind}": tensor for word, of in adapter.embeddings.items() for kind, tensor in of.items()
    }
    alphas: dict[str, float] = {}
    kept: list[str] = []
    for name, factor in adapter.factors.items():
        if isinstance(factor, LowRank):
            parts = {"up": factor.up, "down": factor.down, "mid": factor.mid, "bias": factor.bias}
            alphas[name] = factor.alpha
        elif isinstance(factor, Dense):
            parts = {"weight": factor.weight, "bias": factor.bias}
        else:  # what a training started from and did not train
            parts = factor.tensors
            kept.append(name)
        tensors |= {f"factor|{name}|{part}": t for part, t in parts.items() if t is not None}
    about = {
        "family": adapter.family,
        "trigger": adapter.trigger,
        "metadata": dict(adapter.metadata),
        "alphas": alphas,
        "kept": kept,
    }
    return write_tensors(make_folder(path.parent) / path.name, tensors, {"adapter": json.dumps(about)})


def read_adapter(path: Path) -> Adapter:
    """What `write_adapter` wrote, bit for bit.

    Raises:
        FewShotError: the file is missing, torn or altered.
    """
    tensors, metadata = read_tensors(path)
    about = json.loads(metadata["adapter"])
    parts: dict[str, dict[str, torch.Tensor]] = {}
    embeddings: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        kind, rest = name.split("|", 1)
        owner, part = rest.rsplit("|", 1)
        (embeddings if kind == "embedding" else parts).setdefault(owner, {})[part] = tensor
    factors: dict[str, Factor] = {}
    for module, given in parts.items():
        alpha = about["alphas"].get(module)
        if module in about.get("kept", ()):  # which runs of earlier versions do not have
            factors[module] = Kept(given)
        else:
            factors[module] = Dense(**given) if alpha is None else LowRank(alpha=alpha, **given)
    return Adapter(
        factors=factors,
        family=about["family"],
        trigger=about["trigger"],
        embeddings=embeddings,
        metadata=about["metadata"],
    )
