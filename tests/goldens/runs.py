"""Five steps of every training on the pocket, as the norm and one fixed projection of each layer's change of weights.

A change is up times down of a low-rank pair; of a learned word it is the difference from where it began.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPTokenizer

from comfyui_fewshot.augmentation.images.load import picture_of, stored_picture
from comfyui_fewshot.core.randomness import seed_of
from comfyui_fewshot.core.values import BaseModelRef, Concept, Sample, TrainingSet
from comfyui_fewshot.models.open import base_from_path
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.tests.trainers.refine.refining import Red, Slope, prompts_of
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.method import TrainingResult
from comfyui_fewshot.trainers.refine.method import RefinementGoal, refine_adapter
from comfyui_fewshot.trainers.refine.settings import RefinementSettings
from comfyui_fewshot.trainers.relation.method import train_relation
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.subject.method import train_subject
from comfyui_fewshot.trainers.subject.settings import SubjectSettings

STEPS, SIDE = 5, 32
# What processors may differ by: of a loss; of a layer's change, in most layers; of all changes together. Adam blows
# rounding up where gradients are near zero, the whole change of a layer or two. Usual are 1e-4, 0.005 and 0.002.
LOSS, CHANGE, MOST, ALL_CHANGES = 5e-3, 0.05, 0.9, 0.1
COMMON = dict(steps=STEPS, learning_rate=1e-3, rank=2, resolution=SIDE, save_every=1, log_every=1, seed=11)
SUBJECT = SubjectSettings(
    **COMMON, batch_size=2, local_weight=0.1, text_encoder=True, token="free", min_snr_gamma=5.0, noise_offset=0.05,
    background_weight=0.5, caption_dropout=0.2, warmup=0.2, micro_batch=3,
)  # fmt: skip
DCO = replace(SUBJECT, objective="dco", prior_weight=0.0, token="direction", min_snr_gamma=0.0, local_weight=0.0)
RELATION = RelationSettings(
    steps=STEPS, resolution=SIDE, batch_size=2, save_every=1, log_every=1, seed=11, high_noise_rank=2,
    high_noise_learning_rate=1e-3, adversarial="sensible", token_learning_rate=0.05, validate_every=0,
)  # fmt: skip
REFINE = RefinementSettings(
    **COMMON, method="grpo", prompts_per_round=2, group=4, updates=2, trained_steps=2, sampling_steps=4, guidance=2.0,
    guard_prompts=1, guard_every=100, subject_floor=0.0, diversity_floor=0.0, patience=0, warmup=0.0,
)  # fmt: skip
REFINEMENTS: Mapping[str, dict[str, Any]] = {
    "grpo": {"kl_weight": 0.1},
    "ddpo": {"statistics_from": 4},
    "grpo_clamped": {},
    "nft": {},
    "pairs": {"pair_beta": 100.0},
    "draft": {"trained_steps": 8},
}
START = {"sks": "ball", "<R>": "and"}
METHODS = ("subject", "dco", "relation", *REFINEMENTS)


@cache
def base() -> BaseModelRef:
    return replace(base_from_path(WEIGHTS), dtype="float32")


def pictures(folder: Path, captions: tuple[str, ...], concept: Concept, role: str = "reference") -> tuple[Sample, ...]:
    """Pictures of coloured squares, drawn in whole numbers, so that they are the same everywhere."""
    found = []
    for i, caption in enumerate(captions):
        coarse = np.random.default_rng(seed_of("golden", role, i) % 2**32).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        mask = np.zeros((8, 8), np.uint8)
        mask[2 + i % 2 : 6, 1:5] = 255
        path, cell = folder / f"{role}_{i}.png", np.ones((SIDE // 8, SIDE // 8), np.uint8)
        Image.fromarray(np.kron(coarse, cell[..., None])).save(path)
        shape = stored_picture(Image.fromarray(np.kron(mask, cell)), folder)
        masked = role == "reference" and concept.kind == "subject"
        found.append(Sample(picture_of(path), caption, shape if masked else None, role=role))
    return tuple(found)


def train(method: str, folder: Path) -> TrainingResult:
    """The run in `folder`/runs."""
    name = "refinement" if method in REFINEMENTS else "relation" if method == "relation" else "subject"
    context = TrainingContext(folder / "runs", "cpu", name=name)
    if method == "relation":
        concept = Concept("<R>", "", kind="relation")
        samples = pictures(folder, ("a cat <R> a car in the snow", "a bird <R> a house"), concept)
        return train_relation(base(), TrainingSet(samples, (concept,)), RELATION, context)
    concept = Concept("sks", "ball")
    samples = pictures(folder, ("a sks ball in the snow", "a sks ball wearing a hat", "a sks ball at night"), concept)
    priors = pictures(folder, ("a ball in the snow", "a ball"), concept, "prior")
    if method == "subject":
        return train_subject(base(), TrainingSet((*samples, *priors), (concept,)), SUBJECT, context)
    if method == "dco":
        return train_subject(base(), TrainingSet(samples, (concept,)), DCO, context)
    settings = replace(REFINE, method=method, **REFINEMENTS[method])
    rewards = Slope() if method == "draft" else Red()
    prompts = prompts_of("red", "in the snow", "at night", "on the beach")
    goal = RefinementGoal(prompts, rewards)
    return refine_adapter(base(), None, goal, settings, context, TrainingSet(samples, (concept,))).training


def learned(method: str, folder: Path) -> dict[str, Any]:
    """The run's key, its losses, and (norm, projection) of each layer's change after the last step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in parts are rounded otherwise
    try:
        result = train(method, folder)
    finally:
        torch.set_num_threads(threads)
    saved = next(result.folder.glob("result.json")).read_text(encoding="utf-8")
    key = saved.split('"key": "', 1)[1][:64]
    state = Checkpoints(result.folder / "checkpoints", key).latest()
    assert state is not None and state.step == STEPS
    return {
        "key": key,
        "losses": {name: [round(value, 7) for value in values] for name, values in result.terms.items()},
        "layers": {path: _measured(path, change) for path, change in changes(state.weights).items()},
    }


def changes(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each layer's change of weights, or the parameter itself where it is no low-rank pair."""
    found = {}
    for name, value in weights.items():
        path, _, what = name.rpartition(".")
        if what == "lora_up":
            found[path] = value.double() @ weights[f"{path}.lora_down"].double()
        elif name.startswith("token."):
            found[name] = value.double() - start_of(START[name.split(".")[1]], value)
    return found


def start_of(word: str, like: torch.Tensor) -> torch.Tensor:
    """The vectors (1, width) that a learned word began with; of unit length where only a direction is learned."""
    tokens = CLIPTokenizer.from_pretrained(WEIGHTS / "tokenizer")(word, add_special_tokens=False).input_ids
    (file,) = (WEIGHTS / "text_encoder").glob("*.safetensors")
    (table,) = (value for name, value in load_file(file).items() if name.endswith("token_embedding.weight"))
    row = table[tokens].double()
    direction = abs(float(like.norm()) - 1) < 1e-3
    return row / row.norm() if direction else row


def _measured(path: str, change: torch.Tensor) -> list[float]:
    way = np.random.default_rng(seed_of("projection", path) % 2**32).standard_normal(change.numel())
    projection = change.flatten() @ torch.from_numpy(way)
    return [float(f"{float(value):.6g}") for value in (change.norm(), projection)]
