"""Which models on the disk measure: widgets, and the rules behind "auto"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ..augment.captions import CAPTIONER_PLACES
from ..augment.segment import PLACES, chosen, finder_of, masker_of, pocket_finder
from ..comfy import host
from ..comfy.host import io
from .validation_inputs import AUTO, CLIPS, DINOS, HPS, NONE, OFF, OR_FETCH, PICK, clip_for, plain

log = logging.getLogger(__name__)
REWARD = "imagereward"
HPS_FILES = "HPS*.pt"
FILES = "config.json, model.safetensors, preprocessor_config.json"
MISSING = {
    "CLIP": f"CLIP-T, CLIP-I: put {FILES} and the tokenizer's files of a CLIPModel, such as "
    f"openai/clip-vit-large-patch14, into a folder in models/clip_vision, {OR_FETCH}",
    "DINO": f"DINO: put {FILES} of facebook/dino-vits16 into a folder in models/clip_vision, {OR_FETCH}",
    "DINOv2": f"DINOv2: put {FILES} of facebook/dinov2-small into a folder in models/clip_vision, {OR_FETCH}",
    PICK: f"PickScore: put {FILES} and the tokenizer's files of yuvalkirstain/PickScore_v1 into "
    f"models/rewards/PickScore_v1, {OR_FETCH}",
    HPS: "HPSv2: put HPS_v2.1_compressed.pt of xswu/HPSv2 and a CLIP's vocab.json and merges.txt into "
    "models/rewards/HPSv2",
    REWARD: "ImageReward: put ImageReward.pt of zai-org/ImageReward and the tokenizer's files of bert-base-uncased "
    "into models/rewards/ImageReward",
    "LPIPS": "LPIPS: diversity is {name} instead; install the package lpips and put torchvision's "
    "alexnet-owt-7be5be79.pth into models/lpips",
}
"""by model, what is left out without it and which files go where; nothing is fetched unasked"""
REWARD_FILES = ("ImageReward.pt", "ImageReward.safetensors")


def measuring_inputs() -> list[io.Input]:
    """The models that tell how good pictures are."""
    from ...vision.find import finders

    return [
        io.Combo.Input(
            "clip",
            options=[AUTO, NONE, *host.transformers_folders(CLIPS)],
            default=AUTO,
            tooltip="The CLIP of CLIP-T and CLIP-I: a folder of transformers in models/clip_vision. auto takes the "
            "base's own or the first there.",
        ),
        io.Combo.Input(
            "dino",
            options=[AUTO, NONE, *host.transformers_folders(DINOS), *host.vision_files()],
            default=AUTO,
            tooltip="The DINO that sees the likeness: a folder of transformers in models/clip_vision; or a CLIP's "
            "vision tower, a single file there. auto takes all DINOs there are.",
        ),
        io.Combo.Input(
            "preferences",
            options=[AUTO, OFF],
            default=AUTO,
            advanced=True,
            tooltip="auto: PickScore, HPSv2 and ImageReward where a folder of that name lies in models/clip_vision or "
            "models/rewards.",
        ),
        io.Combo.Input(
            "cut_out",
            options=[NONE, *finders(host.model_roots(*PLACES)), *pocket_finder()],
            default=NONE,
            advanced=True,
            tooltip="What finds the subject, so that likeness is measured on its cut-out too: a model of models/sams "
            "or its neighbours.",
        ),
        io.Combo.Input(
            "asked",
            options=[NONE, *askers()],
            default=NONE,
            optional=True,
            advanced=True,
            tooltip="For a relation: a vision-language model of models/LLM or its neighbours, which is asked whether "
            "each picture shows it.",
        ),
    ]


def askers() -> dict[str, Path]:
    """The vision-language models on the disk, by their names."""
    from ...vision.find import VISION_LANGUAGE_KINDS, find

    return find(host.model_roots(*CAPTIONER_PLACES), VISION_LANGUAGE_KINDS)


def asker(name: str) -> Any:
    """The one that the widget names. It waits on the host until it is asked: the base draws first."""
    from ...vision.captioners import open_captioner

    known = askers()
    if name not in known:
        raise FewShotError(f"there is no vision-language model {name!r}; there are {', '.join(known) or 'none'}")
    opened: Any = open_captioner(known[name], host.device())
    opened.move("cpu")
    return opened


@dataclass(frozen=True)
class Measuring:
    """The metrics, how different two pictures are and by which model (None without one), and what has no model."""

    measures: list[Any]
    distance: Any
    distance_id: str
    left_out: tuple[str, ...]


def measures_for(
    base: Any,
    concept: Any,
    clip: str,
    dino: str,
    preferences: str,
    cut_out: str,
    masks: Sequence[tuple] = (),
    asked: str = NONE,
) -> Measuring:
    """The metrics that the widgets choose. What "auto" does not find is told with the file and folder it wants.

    A relation is measured by its own metrics first; `concept` is None where no pictures are connected. `masks` are the
    references that have a mask of their own, with it.
    """
    from ...evaluation.evaluate import Measure
    from ...evaluation.metrics.clip import ClipImage, ClipText
    from ...evaluation.metrics.likeness import DinoImage, MaskedLikeness
    from ...evaluation.metrics.relation import relation_measures
    from ...evaluation.metrics.vlm_questions import asked_measures
    from ...vision.embedders.clip import Clip
    from ...vision.embedders.clip_vision import open_image_embedder
    from ...vision.embedders.dino import Dino

    noun = concept.noun if concept is not None else ""
    if cut_out != NONE and not noun:
        raise FewShotError("a cut-out is found by the subject's noun: connect its SET, or set cut_out to none")
    device = host.device()
    folder = clip_folder(base, clip)
    seer = None if folder is None else Clip(folder, device)
    eyes = [open_image_embedder(path, device) for path in dino_folders(dino)]
    found = [] if asked == NONE else asked_measures(asker(asked), concept)
    found += relation_measures(seer, concept) if seer is not None and concept is not None else []
    for number, one in enumerate(eyes):
        metric = DinoImage(one) if isinstance(one, Dino) else ClipImage(one)
        if any(m.metric.name == metric.name for m in found):
            metric.name += f" {called(one)}"
        found.append(Measure(metric, "subject"))
        if cut_out != NONE and number == 0:
            found.append(Measure(MaskedLikeness(one, cutter(cut_out, noun), metric.name, masks), "subject"))
    if seer is not None:
        whole = ClipImage(seer)
        if any(m.metric.name == whole.name for m in found):
            whole.name += f" {called(seer)}"
        found += [Measure(whole, "subject"), Measure(ClipText(seer), "prompt")]
        if cut_out != NONE:
            found.append(Measure(MaskedLikeness(seer, cutter(cut_out, noun), whole.name, masks), "subject"))
    found += [] if preferences == OFF else preferred(device)
    log.info("measured by %s", ", ".join(f"{m.name} ({m.metric.model_id})" for m in found) or "nothing")
    missing = lacking(clip, dino, preferences, seer, [one.kind for one in eyes])
    distance, distance_id = told_apart([*eyes, *([seer] if seer is not None else [])], missing)
    for line in missing:
        log.info("left out: %s", line)
    return Measuring(found, distance, distance_id, tuple(missing))


def called(eyes: Any) -> str:
    """What a model's file or folder is called, as the widgets list it."""
    from ...vision.embedders.clip_vision import ClipVision

    return eyes.file.stem if isinstance(eyes, ClipVision) else eyes.folder.name


def lacking(clip: str, dino: str, preferences: str, seer: Any, kinds: Sequence[str]) -> list[str]:
    """What "auto" looked for and did not find, a line each, with the file and folder that it wants."""
    told = []
    if clip == AUTO and seer is None:
        told.append(MISSING["CLIP"])
    if dino == AUTO:
        told += [MISSING["DINO"]] if "vit" not in kinds else []
        told += [] if any(kind.startswith("dinov2") for kind in kinds) else [MISSING["DINOv2"]]
    if preferences == AUTO:
        there = preference_folders()
        told += [MISSING[name] for name in (PICK, HPS, REWARD) if name not in there]
    return told


def told_apart(seers: Sequence[Any], missing: list[str]) -> tuple[Any, str]:
    """How different two pictures are, and by which model; a line into `missing` where it is not LPIPS."""
    from ...evaluation.metrics.diversity import apart, lpips_weights, opened_lpips

    file = lpips_weights(host.model_roots("lpips"))
    if file is not None:
        return opened_lpips(file), f"LPIPS 0.1 with {file.name}"
    if not seers:
        return None, ""
    name = f"1 - cosine of {seers[0].model_id}"
    missing.append(MISSING["LPIPS"].format(name=name))
    return apart(seers[0]), name


def clip_folder(base: Any, clip: str) -> Path | None:
    """The CLIP that measures, found as the one that validates; None where the widget says none."""
    return None if clip == NONE else clip_for(base, clip)


def dino_folders(dino: str) -> list[Path]:
    if dino == NONE:
        return []
    return list(map(host.seeing_model, host.transformers_folders(DINOS) if dino == AUTO else [dino]))


def preference_folders() -> dict[str, Path]:
    """The models of what people prefer that lie on the disk, found by the names of their folders."""
    found: dict[str, Path] = {}
    for root in host.model_roots("clip_vision", "rewards"):
        for folder in sorted(path for path in root.glob("*") if path.is_dir()):
            name, kind = plain(folder.name), host.kind_of_model(folder)
            if any((folder / file).is_file() for file in REWARD_FILES):
                found.setdefault(REWARD, folder)
            elif kind in CLIPS and PICK in name:
                found.setdefault(PICK, folder)
            elif any(folder.glob(HPS_FILES)) or (kind in CLIPS and HPS in name):
                found.setdefault(HPS, folder)
    return found


def preferred(device: Any) -> list[Any]:
    """Those models, ready to measure."""
    from ...evaluation.evaluate import Measure
    from ...evaluation.metrics.preference import HumanPreference, ImageReward, PickScore

    kinds: dict[str, Any] = {REWARD: ImageReward, PICK: PickScore, HPS: HumanPreference}
    return [Measure(kinds[name](folder, device), "preference") for name, folder in preference_folders().items()]


def cutter(model: str, noun: str) -> Any:
    """Finds the subject by its noun with this model, and outlines it with what Segment by Prompt would take."""
    from ...evaluation.metrics.cut_out import Cutter
    from ...vision.model_ids import model_id

    finder, masker = chosen(model, AUTO)
    names = [model_id(place, "") for place in (finder, masker) if place is not None]
    outlines = None if masker is None else masker_of(masker)
    return Cutter(finder_of(finder), outlines, noun, " and ".join(names))
