"""Refinement outside a graph: the entry "refine" of a run's JSON file.

    "refine": {"activities": ["playing soccer", ...], "share": 0.5, "held_out": 0.25,
               "rewards": {"CLIP-T": {"folder": "clip-vit-base-patch32", "weight": 1.0}, "DINO": {...}}}

The subject is the run's adapter, or with none its base; settings are those of refinement.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...core.settings import refuse_unknown
from ...core.values import BaseModelRef, TrainingSet
from ...evaluation.prompts.lists import REFINING
from ...evaluation.prompts.refinement import refinement_prompts
from ...evaluation.reward import Reward, RewardTerm
from ...models.adapters.formats import read_lora, write_lora
from ..context import TrainingContext
from ..method import TrainingResult
from ..refine.method import RefinementGoal, RefinementResult, refine_adapter
from ..refine.settings import RefinementSettings

log = logging.getLogger(__name__)
COMBINED = "combined.safetensors"
OTHERS: Mapping[str, Any] = {"activities": None, "kind": None, "share": 0.5, "held_out": 0.25}


def read_refinement(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The entry, with defaults and absolute paths.

    Raises:
        FewShotError: a name is unknown, no activities are named, or a reward has no folder.
    """
    refuse_unknown(given, dict.fromkeys((*OTHERS, "rewards")), "entry of refine")
    found = {**OTHERS, **given}
    if (found["activities"] is None) == (found["kind"] is None):
        raise FewShotError(f"refine names activities or a kind ({', '.join(REFINING)}), one of both")
    if found["kind"] is not None:
        refuse_unknown({found["kind"]: None}, REFINING, "kind")
        found["activities"] = list(REFINING[found["kind"]])
    if not isinstance(found["activities"], list) or not all(isinstance(text, str) for text in found["activities"]):
        raise FewShotError(f"activities is {found['activities']!r}; give a list of texts")
    for name in ("share", "held_out"):
        found[name] = _number(name, found[name])
    if not found.get("rewards") or not isinstance(found["rewards"], Mapping):
        raise FewShotError('refine names no rewards; give one, such as {"CLIP-T": {"folder": "clip-vit-base-patch32"}}')
    rewards = {}
    for kind, about in found["rewards"].items():
        rewards[kind] = _reward(kind, about, folder)
    return found | {"rewards": rewards}


def _reward(kind: str, about: Any, folder: Path) -> dict[str, Any]:
    """Folder and weight of one reward."""
    if not isinstance(about, Mapping):
        raise FewShotError(f'the reward {kind} is {about!r}; write {{"folder": "where its model is", "weight": 1.0}}')
    refuse_unknown(about, {"folder": 0, "weight": 0}, f"entry of {kind}")
    if not isinstance(about.get("folder"), str):
        raise FewShotError(f"the reward {kind} has no folder; name the one that holds its model")
    return {
        "folder": folder / about["folder"],
        "weight": _number(f"the weight of the reward {kind}", about.get("weight", 1.0)),
    }


def _number(what: str, value: Any) -> float:
    if type(value) not in (int, float):
        raise FewShotError(f"{what} is {value!r}; give a number")
    return float(value)


def refine_run(
    run: Mapping[str, Any], base: BaseModelRef, pictures: TrainingSet, context: TrainingContext
) -> TrainingResult:
    """Refine, together with the other processes; the result's adapter is the refining one."""
    about = run["refine"]
    adapter = read_lora(run["adapter"], base_family=base.family) if run["adapter"] else None
    concept = pictures.concepts[0]
    if adapter is not None and not adapter.trigger:
        adapter = replace(adapter, trigger=concept.phrase)
    terms = tuple(RewardTerm(kind, **values) for kind, values in about["rewards"].items())
    references = tuple(s.image for s in pictures.references) if any(term.axis == "subject" for term in terms) else ()
    prompts = refinement_prompts(about["activities"], concept, about["share"], about["held_out"])
    goal = RefinementGoal(prompts, Reward(terms, references))
    settings = RefinementSettings.from_mapping(run["settings"])
    result = refine_adapter(base, adapter, goal, settings, context, pictures)
    if context.processes.main:
        write_combined(result)
    return result.training


def write_combined(result: RefinementResult) -> None:
    """Write subject and refinement as one LoRA beside the refining one, or log why they are not combined."""
    if result.combined is None:
        log.info("%s", result.apart)
        return
    path = result.training.folder / COMBINED
    if not path.exists():
        write_lora(result.combined, path)
    log.info("subject and refinement in one LoRA: %s", path)
