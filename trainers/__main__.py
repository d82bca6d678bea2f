"""Train outside a graph, on several devices if wished: accelerate launch -m comfyui_fewshot.trainers run.json

The JSON file holds (paths are relative to it; all after the noun may be left out):

    {"base": "model.safetensors", "pictures": "folder", "identifier": "sks", "noun": "cat", "description": "",
     "priors": {"count": 100}, "settings": {"steps": 800}, "runs": "runs", "name": "subject",
     "adapter": "start.safetensors", "dtype": "auto", "clip_skip": 0, "tokenizer_folder": "tokenizer",
     "embeddings": "embeddings", "validation_clip": "clip-vit-base-patch32", "validation_dino": "dinov2-small",
     "refine": {...}}

A base that ComfyUI loads in parts, such as Z-Image or FLUX.2, is named by its files, and `--comfyui FOLDER` says where
ComfyUI is: {"base": "z_image.safetensors", "text_encoder": "qwen_3_4b.safetensors", "vae": "ae.safetensors", ...}, with
"second_text_encoder" and "encoder_type" where it needs them.

With "refine" the adapter is refined by rewards; see `commands.refinement`. With "relation" in the place of "noun" a
word for a relation is learned; see `commands.relation`.

Several processes on a CPU want `--multi_gpu` for the launcher, which starts one otherwise, and `--cpu` for this module:
accelerate launch --multi_gpu --num_processes 2 -m comfyui_fewshot.trainers --cpu run.json
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..augmentation.images.load import subject_from_folder
from ..augmentation.priors.generate import PriorSettings, generate_priors
from ..core.errors import FewShotError
from ..core.progress import NO_METRICS, Metrics, NullProgress
from ..core.settings import refuse_unknown
from ..core.values import BaseModelRef, TrainingSet
from ..models.adapters.formats import read_lora
from ..models.hosted.files import load_parts
from ..models.hosted.host import is_started, start
from ..models.open import base_from_parts, base_from_path
from .commands.refinement import refine_run
from .commands.relation import relation_run
from .commands.run_file import read_run
from .context import TrainingContext
from .distributed import MultiProcess, launched
from .method import TrainingResult
from .subject.method import train_subject
from .subject.settings import SubjectSettings
from .validation.image_metrics import Validator

log = logging.getLogger(__name__)


class LogProgress:
    """Logs progress, a line whenever the text changes."""

    def __init__(self) -> None:
        self._last = ""

    def check(self) -> None:
        pass

    def report(
        self, done: int, total: int, text: str = "", picture: Image.Image | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        if text and text != self._last:
            self._last = text
            log.info("%s", text)


def train_run(run: Mapping[str, Any], processes: MultiProcess) -> TrainingResult:
    """Train a run, together with the other processes."""
    base = base_of(run)
    context = TrainingContext(
        folder=run["runs"],
        device=processes.device,
        progress=LogProgress() if processes.main else NullProgress(),
        tokenizer_folder=run["tokenizer_folder"],
        embedding_folders=(run["embeddings"],) if run["embeddings"] else (),
        name=run["name"],
        processes=processes,
        validator=Validator(run["validation_clip"], run["validation_dino"]) if run["validation_clip"] else None,
    )
    if run["relation"] is not None:
        return relation_run(run, base, context)
    pictures = subject_from_folder(run["pictures"], run["identifier"], run["noun"], run["description"])
    if run["refine"] is not None:
        return refine_run(run, base, pictures, context)
    settings = SubjectSettings.from_mapping(run["settings"])
    if run["priors"] is not None:
        pictures = _with_priors(run, base, pictures, context)
    start_from = read_lora(run["adapter"], base_family=base.family) if run["adapter"] else None
    return train_subject(base, pictures, settings, context, start_from)


def base_of(run: Mapping[str, Any]) -> BaseModelRef:
    """The base of a run: a checkpoint or folder, or files that ComfyUI loads.

    Raises:
        FewShotError: ComfyUI is needed and not there, or settings are of the other kind.
    """
    if run["text_encoder"] is None:
        return base_from_path(run["base"], run["dtype"], run["clip_skip"])
    if run["dtype"] != "auto" or run["clip_skip"]:
        raise FewShotError("dtype and clip_skip are for checkpoints: leave them out, ComfyUI loads this base as it is")
    if not is_started():
        raise FewShotError(
            "a base with text_encoder and vae is ComfyUI's: add --comfyui and the folder that it lies in"
        )
    encoders = [path for path in (run["text_encoder"], run["second_text_encoder"]) if path is not None]
    embeddings = [run["embeddings"]] if run["embeddings"] else []
    return base_from_parts(load_parts(run["base"], encoders, run["vae"], run["encoder_type"], embeddings))


def _with_priors(
    run: Mapping[str, Any], base: BaseModelRef, pictures: TrainingSet, context: TrainingContext
) -> TrainingSet:
    """Add priors: the main process generates them, the others then load them."""
    refuse_unknown(run["priors"], {about.name: about for about in fields(PriorSettings)}, "entry of priors")
    settings = PriorSettings(**run["priors"])
    if not context.processes.main:
        context.processes.barrier()
    cache = replace(context, folder=context.folder / "priors", progress=LogProgress())
    found = generate_priors(base, pictures, settings, cache).pictures
    if context.processes.main:
        context.processes.barrier()
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a run file. The exit status is 0, 1 for a reported error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        prog="comfyui_fewshot.trainers", description="Train a subject's LoRA or a relation's word."
    )
    parser.add_argument("run", type=Path, help="JSON file that describes the run")
    parser.add_argument("--cpu", action="store_true", help="compute on the CPU")
    parser.add_argument("--comfyui", type=Path, metavar="FOLDER", help="ComfyUI, for bases that it loads in parts")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        run = read_run(given.run)
        with launched(given.cpu) as processes:
            if processes.main:
                log.info("%d processes compute on %s", processes.count, processes.device.type)
            if given.comfyui is not None:  # after the process has its device
                start(given.comfyui.resolve(), processes.device.type == "cpu")
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
