"""Names that others read: a LoRA's and an embedding's metadata, a run's folder, a saved state, widgets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open

from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

from . import runs


def of_a_run(folder: Path) -> dict[str, list[str]]:
    """The files of a run's folder, the keys of its JSON files, and those of its safetensors files' headers."""
    (run,) = {path.parent for path in runs.train("subject", folder).folder.glob("result.json")}
    found: dict[str, list[str]] = {
        "files": sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())
    }
    for name in ("settings.json", "result.json"):
        found[name] = sorted(_keys(json.loads((run / name).read_text(encoding="utf-8"))))
    found["log.jsonl"] = sorted(json.loads((run / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]))
    for path in sorted(run.rglob("*.safetensors")):
        name = path.relative_to(run).as_posix()
        with safe_open(path, framework="pt") as file:
            found[f"{name} metadata"] = sorted(file.metadata() or {})
            found[f"{name} tensors"] = sorted({re.sub(r"\d+", "#", tensor) for tensor in file.keys()})
    return found


def _keys(value: object, before: str = "") -> list[str]:
    if not isinstance(value, Mapping) or before.count("/") == 2:
        return [before]
    return [name for key, inner in value.items() for name in _keys(inner, f"{before}/{key}" if before else key)]


def of_settings(_: Path) -> dict[str, list[str]]:
    """The names and defaults that the widgets of the three trainings are made of, in their order."""
    found = {}
    for kind in (SubjectSettings, RelationSettings, RefinementSettings):
        found[kind.__name__] = [f"{name} = {about.default!r}" for name, about in kind.named_fields().items()]
    return found


KINDS: Mapping[str, Callable[[Path], dict[str, list[str]]]] = {"run": of_a_run, "settings": of_settings}
