"""Train outside a graph, on several devices if wished: accelerate launch -m comfyui_fewshot.trainers run.json

The JSON file holds (paths are relative to it; all after the noun may be left out):

    {"base": "model.safetensors", "pictures": "folder", "identifier": "sks", "noun": "cat", "description": "",
     "priors": {"count": 100}, "settings": {"steps": 800}, "runs": "runs", "name": "subject",
     "adapter": "start.safetensors", "dtype": "auto", "clip_skip": 0, "tokenizer_folder": "tokenizer",
     "validation_clip": "clip-vit-base-patch32", "validation_dino": "dinov2-small", "refine": {...}}

With "refine" the adapter is refined by rewards; see `refine_command`. With "relation" in the place of "noun" a word for
a relation is learned; see `relation_command`.

Several processes on a CPU want `--multi_gpu` for the launcher, which starts one otherwise, and `--cpu` for this module:
accelerate launch --multi_gpu --num_processes 2 -m comfyui_fewshot.trainers --cpu run.json
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image

from ..augmentation.images.load import subject_from_folder
from ..augmentation.priors.generate import PriorContext, PriorSettings, generate_priors
from ..core.errors import FewShotError
from ..core.settings import SubjectSettings, refuse_unknown
from ..core.values import BaseModelRef, TrainingSet
from ..models.adapters.formats import read_lora
from ..models.open import base_from_path
from .distributed import MultiProcess, launched
from .refine_command import read_refinement, refine_run
from .relation_command import check_relation, relation_run
from .run import TrainingResult
from .subject.method import train_subject
from .validation.image_metrics import Validator

log = logging.getLogger(__name__)

NEEDED = ("base", "pictures", "identifier", "noun")
PATHS = ("base", "pictures", "runs", "adapter", "tokenizer_folder", "validation_clip", "validation_dino")
OTHERS = {
    "description": "",
    "priors": None,
    "settings": {},
    "runs": "runs",
    "name": "subject",
    "adapter": None,
    "dtype": "auto",
    "clip_skip": 0,
    "tokenizer_folder": None,
    "validation_clip": None,
    "validation_dino": None,
    "refine": None,
    "relation": None,
}
KINDS: Mapping[str, type] = {
    **dict.fromkeys((*NEEDED, *OTHERS), str),
    **dict.fromkeys(("priors", "settings", "refine"), dict),
    "clip_skip": int,
}
TYPE_NAMES = {str: "text in quotes", dict: "an object in braces", int: "a whole number"}


class LogProgress:
    """Logs progress, a line whenever the text changes."""

    def __init__(self) -> None:
        self._last = ""

    def check(self) -> None:
        pass

    def report(self, done: int, total: int, text: str = "", picture: Image.Image | None = None) -> None:
        if text and text != self._last:
            self._last = text
            log.info("%s", text)


def read_run(path: Path) -> dict[str, Any]:
    """The run that a JSON file describes, with defaults and absolute paths.

    Raises:
        FewShotError: the file cannot be read, a name is unknown, or a needed one is missing.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FewShotError(f"cannot read {path}: {error}. Give a JSON file that describes a run.") from error
    if not isinstance(given, Mapping):
        raise FewShotError(f'{path} holds a {type(given).__name__}; a run is an object, such as {{"base": ...}}.')
    refuse_unknown(given, dict.fromkeys((*NEEDED, *OTHERS)), "entry")
    for name, value in given.items():
        if type(value) is not KINDS[name] and not (value is None and name in OTHERS and OTHERS[name] is None):
            raise FewShotError(f"{path}: {name} is {json.dumps(value)}, and shall be {TYPE_NAMES[KINDS[name]]}.")
    is_relation = "relation" in given  # a relation has no noun
    missing = [name for name in NEEDED if name not in given and not (is_relation and name == "noun")]
    if missing:
        raise FewShotError(f"{path} lacks {', '.join(missing)}. Add what is missing.")
    if given.get("validation_dino") and not given.get("validation_clip"):
        raise FewShotError(f"{path} names a DINO to validate with, which reads no prompts: name validation_clip too.")
    run = OTHERS | dict(given)
    if is_relation:
        check_relation(run)
    folder = path.resolve().parent
    if run["refine"] is not None:
        if run["priors"] is not None:
            raise FewShotError(f"{path} names priors, which refinement has no use for: leave them out.")
        run["refine"] = read_refinement(run["refine"], folder)
    return run | {name: folder / run[name] for name in PATHS if run[name] is not None}


def train_run(run: Mapping[str, Any], processes: MultiProcess) -> TrainingResult:
    """Train a run, together with the other processes."""
    base = base_from_path(run["base"], run["dtype"], run["clip_skip"])
    if run["relation"] is not None:
        return relation_run(run, base, processes, LogProgress() if processes.main else None)
    pictures = subject_from_folder(run["pictures"], run["identifier"], run["noun"], run["description"])
    if run["refine"] is not None:
        return refine_run(run, base, pictures, processes, LogProgress() if processes.main else None)
    settings = SubjectSettings.from_mapping(run["settings"])
    if run["priors"] is not None:
        pictures = _with_priors(run, base, pictures, processes)
    return train_subject(
        base,
        pictures,
        settings,
        run["runs"],
        processes.device,
        LogProgress() if processes.main else None,
        run["name"],
        read_lora(run["adapter"]) if run["adapter"] else None,
        run["tokenizer_folder"],
        processes,
        Validator(run["validation_clip"], run["validation_dino"]) if run["validation_clip"] else None,
    )


def _with_priors(
    run: Mapping[str, Any], base: BaseModelRef, pictures: TrainingSet, processes: MultiProcess
) -> TrainingSet:
    """Add priors: the main process generates them, the others then load them."""
    refuse_unknown(run["priors"], {about.name: about for about in fields(PriorSettings)}, "entry of priors")
    settings = PriorSettings(**run["priors"])
    if not processes.main:
        processes.barrier()
    context = PriorContext(run["runs"] / "priors", processes.device, LogProgress(), run["tokenizer_folder"])
    found = generate_priors(base, pictures, settings, context)
    if processes.main:
        processes.barrier()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run file. The exit status is 0, 1 for a reported error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="comfyui_fewshot.trainers", description="Train a subject's LoRA or a relation's word."
    )
    parser.add_argument("run", type=Path, help="JSON file that describes the run")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run = read_run(given.run)
        with launched(given.cpu) as processes:
            if processes.main:
                log.info("%d processes compute on %s", processes.count, processes.device.type)
            result = train_run(run, processes)
            if processes.main:
                files = " and ".join(map(str, result.files))
                log.info("what was learned is %s, its trigger: %s", files, result.adapter.trigger)
    except FewShotError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; what was learned is kept, and the same command goes on from there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
