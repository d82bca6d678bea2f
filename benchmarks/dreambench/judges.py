"""Which models measure, and which ones train: never the same, where the disk holds two."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ...core.errors import FewShotError
from ...core.values import Prompt
from ...evaluation.measurement import Measure
from ...evaluation.metrics.clip import ClipImage, ClipText
from ...evaluation.metrics.likeness import DinoImage
from ...evaluation.metrics.preference import ImageReward, PickScore
from ...evaluation.reward import RewardTerm
from ...evaluation.score import model_on_device
from ...vision import places
from ...vision.embedders.clip import Clip

log = logging.getLogger(__name__)
# In whose folder's name the model of the papers' numbers is told.
PAPERS_CLIP, PAPERS_DINO = "vitbasepatch32", "dinovits16"
LIKENESS_WEIGHT = 0.5  # of Refine LoRA's reward beside CLIP-T, as the node Reward has it
METRICS = ("CLIP-T", "CLIP-I", "DINO", "ImageReward", "PickScore")


@dataclass(frozen=True)
class Judges:
    """The folders of the models on the disk. `training_clip` chooses the step of Train Subject and rewards Refine LoRA;
    `reward_dino` sees likeness for the reward, where there is a DINO that does not measure."""

    clip: Path
    training_clip: Path
    dino: Path | None = None
    reward_dino: Path | None = None
    image_reward: Path | None = None
    pickscore: Path | None = None

    @property
    def shared(self) -> bool:
        """Whether the CLIP that measures is the one that trains."""
        return self.clip.resolve() == self.training_clip.resolve()

    @property
    def terms(self) -> tuple[RewardTerm, ...]:
        """The reward of Refine LoRA: the node Reward's defaults."""
        if self.reward_dino is not None:
            likeness = RewardTerm("DINO", self.reward_dino, LIKENESS_WEIGHT)
        else:
            likeness = RewardTerm("CLIP-I", self.training_clip, LIKENESS_WEIGHT)
        return (RewardTerm("CLIP-T", self.training_clip), likeness)


def find_judges(chosen: argparse.Namespace) -> Judges:
    """The models that the options name, else those in the models folders and beside the base.

    Raises:
        FewShotError: there is no CLIP.
    """
    seeing = [folder / "clip_vision" for folder in chosen.models]
    clips = {n: f for n, f in places.transformers_folders(seeing, places.CLIPS).items() if not places.is_preference(n)}
    own = chosen.base / "clip"  # of a base in diffusers' layout
    if places.kind_of_model(own) in places.CLIPS:
        clips.setdefault(f"{chosen.base.name} (its own)", own)
    ordered = sorted(clips.items(), key=lambda item: PAPERS_CLIP not in places.plain(item[0]))
    clip = chosen.clip or (ordered[0][1] if ordered else chosen.training_clip)
    if clip is None:
        looked = ", ".join(map(str, seeing)) or "no folder, since --models names none and no ComfyUI is known"
        raise FewShotError(
            f"there is no CLIP on the disk (looked in {looked}), without which neither prompt following is measured "
            f"nor Train Subject's step chosen: {places.INSTRUCTIONS['CLIP']}, or name its folder with --clip"
        )
    others = [folder for _, folder in ordered if folder.resolve() != clip.resolve()]
    dinos = places.transformers_folders(seeing, places.DINOS)
    by_paper = sorted(
        dinos, key=lambda n: (PAPERS_DINO not in places.plain(n), places.kind_of_model(dinos[n]) != "vit", n)
    )
    dino = chosen.dino or (dinos[by_paper[0]] if by_paper else None)
    spare = [dinos[name] for name in by_paper if dino is None or dinos[name].resolve() != dino.resolve()]
    preferences = places.preference_folders(
        [folder / place for folder in chosen.models for place in places.PREFERENCE_PLACES]
    )
    return Judges(
        clip,
        chosen.training_clip or (others[0] if others else clip),
        dino,
        spare[0] if spare else None,
        preferences.get(places.REWARD),
        preferences.get(places.PICK),
    )


def measures_of(judges: Judges, device: torch.device) -> tuple[list[Measure], list[str]]:
    """The metrics whose models are there, in the order of `METRICS`, and a line for each of the others."""
    clip = Clip(judges.clip, device)
    measures, missing = [Measure(ClipText(clip), "prompt"), Measure(ClipImage(clip), "subject")], []
    if judges.dino is not None:
        measures.append(Measure(DinoImage(judges.dino, device), "subject"))
    else:
        missing.append(f"DINO: {places.INSTRUCTIONS['DINO']}")
    for name, folder, metric, kind in (
        ("ImageReward", judges.image_reward, ImageReward, places.REWARD),
        ("PickScore", judges.pickscore, PickScore, places.PICK),
    ):
        if folder is not None:
            measures.append(Measure(metric(folder, device), "preference"))
        else:
            missing.append(f"{name}: {places.INSTRUCTIONS[kind]}")
    return measures, missing


def tried(
    measures: Sequence[Measure], picture: Image.Image, noun: str, device: torch.device
) -> tuple[list[Measure], list[str]]:
    """The metrics that give a number for a picture, and a line for each that does not: before hours are spent.

    Each is on `device` while it is tried, and on the CPU while others train.

    Raises:
        FewShotError: the CLIP gives none.
    """
    works, broken = [], []
    for measure in measures:
        try:
            with model_on_device(measure.metric.model, device):
                value = float(measure.metric.scores([picture], [Prompt(f"a {noun}", f"a {noun}")], [picture]))
            if value != value:
                raise FewShotError("its score is no number; its model's files may be damaged")
            works.append(measure)
            log.info("%s is measured by %s", measure.name, measure.metric.model_id)
        except FewShotError as error:
            if measure.name in ("CLIP-T", "CLIP-I"):
                raise
            broken.append(f"{measure.name}: {error}")
    return works, broken


def caution(judges: Judges, metric: str) -> str:
    """What is to be known of a metric whose model took part in training; "" for a judge that did not."""
    if metric in ("CLIP-T", "CLIP-I") and judges.shared:
        return "the same CLIP chose Train Subject's step and rewarded Refine LoRA: no independent judge of those two"
    return ""
