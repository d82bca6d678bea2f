"""A run's JSON file; see the module's `__main__` for its entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...core.settings import refuse_unknown
from .refinement import read_refinement
from .relation import check_relation

NEEDED = ("base", "pictures", "identifier", "noun")
FILES = ("text_encoder", "second_text_encoder", "vae")
"""beside a base that is trained in ComfyUI's own network, which they belong to"""
PATHS = (
    "base",
    *FILES,
    "pictures",
    "runs",
    "adapter",
    "tokenizer_folder",
    "embeddings",
    "validation_clip",
    "validation_dino",
)
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
    "embeddings": None,
    "validation_clip": None,
    "validation_dino": None,
    "refine": None,
    "relation": None,
    **dict.fromkeys(FILES),
    "encoder_type": "auto",
}
KINDS: Mapping[str, type] = {
    **dict.fromkeys((*NEEDED, *OTHERS), str),
    **dict.fromkeys(("priors", "settings", "refine"), dict),
    "clip_skip": int,
}
TYPE_NAMES = {str: "text in quotes", dict: "an object in braces", int: "a whole number"}


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
    if run["text_encoder"] is None and (run["second_text_encoder"] or run["encoder_type"] != OTHERS["encoder_type"]):
        raise FewShotError(
            f"{path} says how a base that ComfyUI loads in parts reads prompts, and names no text_encoder: name it and "
            "the vae, or leave that out"
        )
    if (run["text_encoder"] is None) != (run["vae"] is None):
        raise FewShotError(
            f"{path} names one of text_encoder and vae: a base that ComfyUI loads in parts needs both, "
            "a checkpoint neither"
        )
    if is_relation:
        check_relation(run)
    folder = path.resolve().parent
    if run["refine"] is not None:
        if run["priors"] is not None:
            raise FewShotError(f"{path} names priors, which refinement has no use for: leave them out.")
        run["refine"] = read_refinement(run["refine"], folder)
    return run | {name: folder / run[name] for name in PATHS if run[name] is not None}
