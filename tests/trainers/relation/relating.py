"""What tests of relations share: captioned pictures, settings that take a second, and a training by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from comfyui_fewshot.core.progress import Progress
from comfyui_fewshot.core.values import BaseModelRef, TrainingSet
from comfyui_fewshot.trainers.relation.method import train_relation
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.run import TrainingResult

WORD = "<R>"
CAPTIONS = ("cat <R> car\na red cat <R> a car, at night", "bird <R> house", "a cup <R> a blue boat, in the snow")
CHOSEN = RelationSettings(
    steps=8, batch_size=2, save_every=3, log_every=2, warmup=0.25, seed=5, token_learning_rate=0.1
)


def captioned_folder(pictures: Path, made: Path) -> Path:
    """Three pictures with one or two captions each."""
    for i, text in enumerate(CAPTIONS):
        (made / f"{i}.png").write_bytes((pictures / f"{i}.png").read_bytes())
        (made / f"{i}.txt").write_text(text)
    return made


def train_small(
    base: BaseModelRef,
    relation: TrainingSet,
    folder: Path,
    progress: Progress | None = None,
    set_: TrainingSet | None = None,
    start_from=None,
    **changes,
) -> TrainingResult:
    """`train_relation` by CHOSEN; keywords replace settings."""
    settings = replace(CHOSEN, **changes)
    return train_relation(base, set_ or relation, settings, folder, "cpu", progress, start_from=start_from)
