"""Which models on the disk measure: widgets, and the rules of "auto"."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import FewShotError
from ...vision import places
from ...vision.places import CAPTIONER_PLACES, CLIPS, DINOS, HPS, INSTRUCTIONS, PICK, REWARD
from ..augment.segment import cached_finder, cached_masker, model_paths, phrase_finders
from ..comfy import folders, host
from ..comfy.host import io
from .validation_inputs import AUTO, NONE, OFF, clip_for

if TYPE_CHECKING:
    from ...evaluation.measurement import Measure, MeasurementPlan

log = logging.getLogger(__name__)
# by model, the metrics that need it
METRICS_OF = {
    "CLIP": "CLIP-T, CLIP-I",
    "DINO": "DINO",
    "DINOv2": "DINOv2",
    PICK: "PickScore",
    HPS: "HPSv2",
    REWARD: "ImageReward",
    "LPIPS": "LPIPS",
}


def metric_inputs() -> list[io.Input]:
    """Widgets that choose the models of metrics."""
    return [
        io.Combo.Input(
            "clip",
            options=[AUTO, NONE, *folders.transformers_folders(CLIPS)],
            default=AUTO,
            tooltip="The CLIP of CLIP-T and CLIP-I: a folder of transformers in models/clip_vision. auto takes the "
            "base's own or the first there.",
        ),
        io.Combo.Input(
            "dino",
            options=[AUTO, NONE, *folders.transformers_folders(DINOS), *folders.vision_files()],
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
            options=[NONE, *phrase_finders()],
            default=NONE,
            advanced=True,
            tooltip="What finds the subject, so that likeness is measured on its cut-out too: a model of models/sams "
            "or its neighbours.",
        ),
        io.Combo.Input(
            "asked",
            options=[NONE, *vlm_folders()],
            default=NONE,
            optional=True,
            advanced=True,
            tooltip="For a relation: a vision-language model of models/LLM or its neighbours, which is asked whether "
            "each picture shows it.",
        ),
    ]


def vlm_folders() -> dict[str, Path]:
    """The vision-language models on the disk, by their names."""
    from ...vision.find import VISION_LANGUAGE_KINDS, find

    return find(folders.model_roots(*CAPTIONER_PLACES), VISION_LANGUAGE_KINDS)


def open_vlm(name: str) -> Any:
    """The model that the widget names, on the CPU until it is used: the base draws first."""
    from ...vision.captioners import open_captioner

    known = vlm_folders()
    if name not in known:
        raise FewShotError(f"there is no vision-language model {name!r}; there are {', '.join(known) or 'none'}")
    opened: Any = open_captioner(known[name], host.device())
    opened.move("cpu")
    return opened


@dataclass(frozen=True)
class MetricChoices:
    """What the widgets of `metric_inputs` choose."""

    clip: str
    dino: str
    preferences: str
    cut_out: str
    questioner: str = NONE

    @classmethod
    def pop_from(cls, values: dict[str, Any]) -> MetricChoices:
        """Takes these widgets out of a node's values."""
        chosen = {name: values.pop(name) for name in ("clip", "dino", "preferences", "cut_out")}
        return cls(**chosen, questioner=values.pop("asked", NONE))


def measurement_plan(base: Any, concept: Any, choices: MetricChoices, masks: Sequence[tuple] = ()) -> MeasurementPlan:
    """The metrics that the widgets choose, yet without references. What "auto" does not find is named with the file
    and folder it wants.

    A relation is measured by its own metrics first; `concept` is None where no pictures are connected. `masks` are
    pairs of a reference and its mask.
    """
    from ...evaluation.measurement import Measure, MeasurementPlan
    from ...evaluation.metrics.clip import ClipText
    from ...evaluation.metrics.relation import relation_measures
    from ...evaluation.metrics.vlm_questions import vlm_measures
    from ...vision.embedders.clip import Clip
    from ...vision.embedders.clip_vision import open_image_embedder

    noun = concept.noun if concept is not None else ""
    if choices.cut_out != NONE and not noun:
        raise FewShotError("a cut-out is found by the subject's noun: connect its SET, or set cut_out to none")
    device = host.device()
    folder = clip_folder(base, choices.clip)
    clip = None if folder is None else Clip(folder, device)
    embedders = [open_image_embedder(path, device) for path in dino_folders(choices.dino)]
    measures = [] if choices.questioner == NONE else vlm_measures(open_vlm(choices.questioner), concept)
    measures += relation_measures(clip, concept) if clip is not None and concept is not None else []
    for number, embedder in enumerate(embedders):
        cut_out = choices.cut_out if number == 0 else NONE
        measures += likeness_measures(embedder, {m.name for m in measures}, cut_out, noun, masks)
    if clip is not None:
        likeness, *masked = likeness_measures(clip, {m.name for m in measures}, choices.cut_out, noun, masks)
        measures += [likeness, Measure(ClipText(clip), "prompt"), *masked]
    measures += [] if choices.preferences == OFF else preference_measures(device)
    log.info("measured by %s", ", ".join(f"{m.name} ({m.metric.model_id})" for m in measures) or "nothing")
    missing = missing_models(choices, clip, [embedder.kind for embedder in embedders])
    distance, distance_id = image_distance([*embedders, *([clip] if clip is not None else [])], missing)
    for line in missing:
        log.info("left out: %s", line)
    return MeasurementPlan(measures, distance=distance, distance_id=distance_id, left_out=tuple(missing))


def likeness_measures(
    embedder: Any, taken: AbstractSet[str], cut_out: str, noun: str, masks: Sequence[tuple]
) -> list[Measure]:
    """Likeness by one embedder, and that of cut-outs unless `cut_out` is none; `taken` are the names in use."""
    from ...evaluation.measurement import Measure
    from ...evaluation.metrics.clip import ClipImage
    from ...evaluation.metrics.likeness import DinoImage, MaskedLikeness
    from ...vision.embedders.dino import Dino

    metric = DinoImage(embedder) if isinstance(embedder, Dino) else ClipImage(embedder)
    if metric.name in taken:
        metric.name += f" {listed_name(embedder)}"
    measures = [Measure(metric, "subject")]
    if cut_out != NONE:
        measures.append(
            Measure(MaskedLikeness(embedder, subject_segmenter(cut_out, noun), metric.name, masks), "subject")
        )
    return measures


def listed_name(embedder: Any) -> str:
    """The name of an embedder's file or folder, as the widgets list it."""
    from ...vision.embedders.clip_vision import ClipVision

    return embedder.file.stem if isinstance(embedder, ClipVision) else embedder.folder.name


def missing_line(model: str) -> str:
    """The metrics left out without `model`, and which files go where."""
    return f"{METRICS_OF[model]}: {INSTRUCTIONS[model]}"


def missing_models(choices: MetricChoices, clip: Any, kinds: Sequence[str]) -> list[str]:
    """What "auto" looked for and did not find, a line each, with the file and folder that it wants."""
    missing = []
    if choices.clip == AUTO and clip is None:
        missing.append(missing_line("CLIP"))
    if choices.dino == AUTO:
        missing += [missing_line("DINO")] if "vit" not in kinds else []
        missing += [] if any(kind.startswith("dinov2") for kind in kinds) else [missing_line("DINOv2")]
    if choices.preferences == AUTO:
        there = preference_folders()
        missing += [missing_line(name) for name in (PICK, HPS, REWARD) if name not in there]
    return missing


def image_distance(embedders: Sequence[Any], missing: list[str]) -> tuple[Any, str]:
    """The distance between pictures and the model behind it; adds a line to `missing` where that is not LPIPS."""
    from ...evaluation.metrics.diversity import CosineDistance, Lpips, lpips_weights

    file = lpips_weights(folders.model_roots("lpips"))
    if file is not None:
        return Lpips(file), f"LPIPS 0.1 with {file.name}"
    if not embedders:
        return None, ""
    name = f"1 - cosine of {embedders[0].model_id}"
    missing.append(missing_line("LPIPS").format(name=name))
    return CosineDistance(embedders[0]), name


def clip_folder(base: Any, clip: str) -> Path | None:
    """The CLIP that measures, chosen by the rule of the one that validates; None where the widget says none."""
    return None if clip == NONE else clip_for(base, clip)


def dino_folders(dino: str) -> list[Path]:
    if dino == NONE:
        return []
    return list(map(folders.seeing_model, folders.transformers_folders(DINOS) if dino == AUTO else [dino]))


def preference_folders() -> dict[str, Path]:
    """The preference models on the disk, by the names of their folders."""
    return places.preference_folders(folders.model_roots(*places.PREFERENCE_PLACES))


def preference_measures(device: Any) -> list[Any]:
    """The preference models on the disk as measures."""
    from ...evaluation.measurement import Measure
    from ...evaluation.metrics.preference import HumanPreference, ImageReward, PickScore

    kinds: dict[str, Any] = {REWARD: ImageReward, PICK: PickScore, HPS: HumanPreference}
    return [Measure(kinds[name](folder, device), "preference") for name, folder in preference_folders().items()]


def subject_segmenter(model: str, noun: str) -> Any:
    """Detects the subject by its noun with this model; outlined by the model that Segment by Prompt would choose."""
    from ...evaluation.metrics.cut_out import SubjectSegmenter
    from ...vision.model_ids import model_id

    finder, masker = model_paths(model, AUTO)
    names = [model_id(place, "") for place in (finder, masker) if place is not None]
    outlines = None if masker is None else cached_masker(masker)
    return SubjectSegmenter(cached_finder(finder), outlines, noun, " and ".join(names))
