"""The entry "relation" of a run's JSON file: a word for how two things relate is trained instead of a subject's LoRA.

{"base": "model.safetensors", "pictures": "folder", "identifier": "<R>", "relation": "painted on",
 "settings": {"steps": 1000}, "runs": "runs", "name": "painted", "adapter": "word.safetensors"}

"relation" says in plain words what the word will mean; captions that hold them are left out. It may be "". "adapter"
is what such a run left: the file of a word, or that of a LoRA with the word in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...augmentation.images.relation_pictures import relation_from_folder
from ...core.errors import FewShotError
from ...core.values import Adapter, BaseModelRef
from ...core.weight_files import LORA, open_tensors, other_kind
from ...models.adapters.formats import read_lora
from ...models.adapters.token_files import read_embedding
from ..context import TrainingContext
from ..method import TrainingResult
from ..relation.gain import explained
from ..relation.method import train_relation
from ..relation.settings import RelationSettings

log = logging.getLogger(__name__)

# Entries that are of no use to a relation.
SUBJECT_ONLY = ("noun", "description", "priors", "refine", "validation_clip", "validation_dino")


def check_relation(run: Mapping[str, Any]) -> None:
    """Raises FewShotError where a run of a relation holds what only a subject has, or no words for the relation."""
    if not isinstance(run["relation"], str):
        raise FewShotError(f'"relation" is {run["relation"]!r}; write what it means in words, such as "painted on"')
    if useless := [name for name in SUBJECT_ONLY if run.get(name)]:
        raise FewShotError(f"a relation has no use for {', '.join(useless)}: leave them out, or leave relation out")


def relation_run(run: Mapping[str, Any], base: BaseModelRef, context: TrainingContext) -> TrainingResult:
    """Train the word together with the other processes; the main one logs how well it explains its images."""
    pictures = relation_from_folder(run["pictures"], run["identifier"], run["relation"])
    settings = RelationSettings.from_mapping(run["settings"])
    start_from = read_relation(run["adapter"], base.family) if run["adapter"] else None
    result = train_relation(base, pictures, settings, context, start_from)
    if context.processes.main:
        log.info("%s", explained(result.readings, settings))
    return result


def read_relation(path: Path, family: str) -> Adapter:
    """Read the result of a relation run: its word, or with `high_noise_rank` a LoRA with the word in it."""
    with open_tensors(path) as (tensors, _):
        kind = other_kind(tensors)
    return read_lora(path, base_family=family) if kind == LORA else read_embedding(path, family)
