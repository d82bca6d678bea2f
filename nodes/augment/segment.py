"""Masks of what a phrase names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...vision.places import SEGMENTER_PLACES
from ..comfy import folders, host
from ..comfy.host import io
from ..pictures.mask_sources import source_of, upright
from ..pictures.sets import mask_tensor, picture_tensor, single
from ..schema.sockets import Set

log = logging.getLogger(__name__)
CATEGORY = "few-shot/augment"
AUTO, NONE, POCKET = "auto", "none", "pocket"
MOST_SHOWN = 24
MISSING = (
    "there is no model on disk that finds phrases: put a folder of one in transformers' layout (config.json, "
    "model.safetensors, preprocessor_config.json, tokenizer files) into models/grounding-dino, models/owlv2, "
    "models/florence2 or models/clipseg, for example IDEA-Research/grounding-dino-tiny with facebook/sam-vit-base in "
    "models/sams, or CIDAS/clipseg-rd64-refined alone; or run Fetch Model, or connect a MASK. The pocket's own model, "
    "which knows drawn pictures only, must be chosen by name"
)


def pocket_finder() -> dict[str, Path]:
    folder = folders.POCKET / "clipseg"
    return {POCKET: folder} if (folder / "config.json").is_file() else {}


def phrase_finders() -> dict[str, Path]:
    """The models on the disk that find phrases, by their names, best first."""
    from ...vision.find import finders

    return finders(folders.model_roots(*SEGMENTER_PLACES)) | pocket_finder()


class SegmentByPrompt(io.ComfyNode):
    """A mask for each picture: of what the phrases name, or the one that is connected."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ...vision.find import maskers

        return io.Schema(
            node_id="FewShotSegmentByPrompt",
            display_name="Segment by Prompt",
            category=CATEGORY,
            description="Finds in each picture what the words name and gives the picture a mask of it. A connected "
            "mask wins over all models.",
            search_aliases=["grounding dino", "segment anything", "clipseg", "mask by text", "sam"],
            inputs=[
                Set.Input("set", tooltip="The pictures to mask."),
                io.Combo.Input(
                    "model",
                    options=[AUTO, *phrase_finders()],
                    default=AUTO,
                    tooltip="What finds the words: GroundingDINO, OWLv2, Florence-2 or CLIPSeg from models/sams and "
                    "its neighbours. Auto takes the best there is.",
                ),
                io.Combo.Input(
                    "outline",
                    options=[AUTO, NONE, *maskers(folders.model_roots(*SEGMENTER_PLACES))],
                    default=AUTO,
                    tooltip="What draws the outline in the box that was found: a SAM or SAM 2 from models/sams. None "
                    "takes the finder's own mask.",
                ),
                io.String.Input(
                    "phrases",
                    default="",
                    placeholder="{noun}",
                    tooltip="What to look for, separated by commas. Empty: the class noun, or the two things of a "
                    "relation's caption.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The score from which something counts as found; 0 takes the model's own.",
                ),
                io.Combo.Input(
                    "instances",
                    options=["best", "all"],
                    default="best",
                    tooltip="Only the best find of each phrase, or all of them in one mask.",
                ),
                io.Combo.Input(
                    "missing",
                    options=["stop", "no mask", "leave out"],
                    default="stop",
                    tooltip="What happens to a picture in which nothing is found.",
                ),
                io.Combo.Input(
                    "role",
                    options=["all", "reference", "prior"],
                    default="all",
                    tooltip="Which pictures get masks: all, those of the subject, or the priors of its class.",
                ),
                io.Boolean.Input(
                    "keep",
                    default=True,
                    advanced=True,
                    tooltip="Pictures that have a mask already keep it. A connected mask replaces it all the same.",
                ),
                io.Mask.Input(
                    "masks",
                    optional=True,
                    tooltip="White on the subject: one, or one for each picture of the role. Load Image's MASK is "
                    "white where the file is transparent: it is inverted here, and the node says so. With other nodes "
                    "put Invert Mask between where white is the background.",
                ),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="The set with masks."),
                io.Image.Output(display_name="overlay", tooltip="The pictures with mask, box and score."),
                io.Mask.Output(
                    display_name="MASK", is_output_list=True, tooltip="The masks, each in its picture's size."
                ),
                io.String.Output(display_name="report", tooltip="What was found in each picture."),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            is_input_list=True,  # one mask for each picture may come as a list, each of its own size
        )

    @classmethod
    def execute(cls, masks: Any = None, **given: Any) -> io.NodeOutput:
        from ...augmentation.images.load import load_mask, masks_from_tensors
        from ...augmentation.masks.segment import SegmentSettings, given_masks, segment

        values = {name: single(name, value) for name, value in given.items()}
        set, model, outline = (values.pop(name) for name in ("set", "model", "outline"))
        settings = SegmentSettings(**values)
        cache, notes = folders.sent_pictures_folder(), []
        with host.engine(cls.hidden.unique_id) as progress:
            if masks is not None:
                masks = upright(masks, source_of(cls.hidden, "masks"), notes)
                made, outcomes = given_masks(set, masks_from_tensors(masks), settings, cache)
            else:
                finder, masker = open_models(model, outline) if needs_model(set, settings) else (None, None)
                made, outcomes = segment(set, finder, masker, settings, cache, progress)
        report = "\n".join([*(outcome.message for outcome in outcomes), *notes])
        shapes = [
            mask_tensor(load_mask(s.mask), (s.image.width, s.image.height)) for s in made.samples if s.mask is not None
        ]
        sheet = overlays(outcomes)
        return io.NodeOutput(made, sheet, shapes, report, ui=host.show(cls, sheet, report))


def needs_model(training_set: Any, settings: Any) -> bool:
    """Whether a picture is to get a mask from a model; where all keep theirs, none is opened."""
    selected = [sample for sample in training_set.samples if settings.role in ("all", sample.role)]
    return not settings.keep or not selected or any(sample.mask is None for sample in selected)


def open_models(model: str, outline: str) -> tuple[Any, Any]:
    """The finder and the masker (or None) that the widgets choose; neither holds weights before it is asked."""
    finder, masker = model_paths(model, outline)
    return cached_finder(finder), None if masker is None else cached_masker(masker)


def model_paths(model: str, outline: str) -> tuple[Path, Path | None]:
    """The paths of the finder and the masker that the widgets choose."""
    from ...vision.find import maskers

    there, outlines = phrase_finders(), maskers(folders.model_roots(*SEGMENTER_PLACES))
    if model == AUTO:
        model = next((name for name in there if name != POCKET), "")
        if not model:
            raise FewShotError(MISSING)
        log.info("phrases are found with %s", model)
    if outline == AUTO:
        # The pocket's pictures have 64 pixels; an outline by SAM is for photographs.
        outline = NONE if model == POCKET else next(iter(outlines), NONE)
        log.info("outlines are drawn with %s", outline)
    for name, known in ((model, there), (outline, outlines | {NONE: None})):
        if name not in known:
            raise FewShotError(f"no model {name!r} is on disk any more: choose another and press R to refresh")
    return there[model], None if outline == NONE else outlines[outline]


def answer_cache(opening: Callable[[], Any], location: Path) -> Any:
    """What the model at `location` (a folder or a file), which `opening` opens, answered so far."""
    from ...vision.answer_cache import AnswerCache

    state = location.stat()
    version = folders.folder_print(location) if location.is_dir() else f"{state.st_size}:{state.st_mtime_ns}"
    return AnswerCache(opening, f"{location.name} {version}", folders.answers_folder())


def cached_finder(folder: Path) -> Any:
    """The finder in `folder`, opened when a picture is new to it."""
    from ...vision.segmenters import finder_class, open_finder
    from ...vision.segmenters.cached import CachedFinder

    answers = answer_cache(partial(open_finder, folder, host.device()), folder)
    return CachedFinder(answers, finder_class(folder).threshold)


def cached_masker(location: Path) -> Any:
    """The masker at `location`, opened when a picture or box is new to it."""
    from ...vision.segmenters import open_masker
    from ...vision.segmenters.cached import CachedMasker

    return CachedMasker(answer_cache(partial(open_masker, location, host.device()), location))


def overlays(outcomes: Any) -> Any:
    """A sheet of the first pictures with their masks: (1, height, width, 3)."""
    from ...augmentation.masks.segment import overlay
    from ...evaluation.report.grids import contact_sheet

    shown = outcomes[:MOST_SHOWN]
    return picture_tensor(contact_sheet([overlay(result) for result in shown], [result.message for result in shown]))
