"""`python -m comfyui_fewshot.tools.check --models FOLDER`, as run.py starts it."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ...core.errors import FewShotError
from ..console import say
from . import scenes
from .models import FoundModel, found_models, missing_models
from .probes import Finding

WORKS, WRONG, BROKEN, MISSING = "works", "wrong", "broken", "not there"


def verdict(model: FoundModel, device: torch.device) -> tuple[str, str]:
    """`WORKS`, `WRONG` or `BROKEN`, and what was seen in a line."""
    if model.probe is None:
        return BROKEN, model.wrong
    known = scenes.pocket() if model.pocket else scenes.drawn()
    try:
        finding: Finding = model.probe(model.location, device, known)
    except FewShotError as error:
        return BROKEN, " ".join(str(error).split())
    except Exception as error:  # whatever a model's own code raises is what is to be told
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        return BROKEN, f"{type(error).__name__}: {reason}"
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return (WORKS if finding.works else WRONG), finding.text


def check(folders: Sequence[Path], device: torch.device) -> int:
    """Try all models, a line each as soon as it is known; gives how many are wrong or broken."""
    found, counts = found_models(folders), Counter[str]()
    say(f"{len(found)} models in {', '.join(map(str, folders))} and in the pocket, on {device}")
    for model in found:
        began = time.monotonic()
        word, text = verdict(model, device)
        counts[word] += 1
        say(f"{word:<10} {model.role}: {model.name} ({time.monotonic() - began:.1f} s)\n           {text}")
    for role, source in missing_models(found):
        counts[MISSING] += 1
        say(f"{MISSING:<10} {role}\n           {source}")
    say()
    say(", ".join(f"{counts[word]} {word}" for word in (WORKS, WRONG, BROKEN, MISSING)))
    if counts[WRONG]:
        say(f"{WRONG}: it answers, but not as a model that sees would. Look at its files: fetch them again.")
    return counts[WRONG] + counts[BROKEN]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 0 unless a model is wrong or broken."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    parser = argparse.ArgumentParser(prog="check models", description="Try each optional model on known pictures.")
    parser.add_argument("--models", type=Path, action="append", required=True, metavar="FOLDER")
    folders = [folder.absolute() for folder in parser.parse_args(arguments).models]
    if lacking := [folder for folder in folders if not folder.is_dir()]:
        parser.error(f"{lacking[0]} is no folder; give the one that holds clip_vision, sams, rewards, LLM, ...")
    logging.basicConfig(level=logging.WARNING, format="           %(message)s", stream=sys.stderr)
    disable_progress_bar()
    set_verbosity_error()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    return 1 if check(folders, device) else 0


if __name__ == "__main__":
    sys.exit(main())
