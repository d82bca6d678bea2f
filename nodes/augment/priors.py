"""Prior pictures of the class."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

from ...vision.places import CLIPS
from ..comfy import folders, host
from ..comfy.host import io
from ..pictures.sets import picture_tensor, summary
from ..schema.sampling_inputs import seed_input
from ..schema.sockets import Base, Set
from ..schema.validation_inputs import AUTO, NONE, clip_for
from .segment import model_paths, phrase_finders

log = logging.getLogger(__name__)
NOUN = "{noun}"  # stands for the class noun in a person's own prompts
CATEGORY = "few-shot/augment"
MOST_SHOWN = 24


class GeneratePriors(io.ComfyNode):
    """Pictures of the class as the base draws it, so that training keeps it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotGeneratePriors",
            display_name="Generate Priors",
            category=CATEGORY,
            description="Lets the base draw its own pictures of the class noun and adds them to the set. Training on "
            "both keeps the class as it was. Pictures made once are used again.",
            search_aliases=["class images", "regularization images", "prior preservation", "dreambooth priors"],
            inputs=[
                Base.Input("base", tooltip="The model that draws; the one that will be trained."),
                Set.Input("set", tooltip="The pictures of the subject, with its class noun."),
                io.Int.Input(
                    "count",
                    default=100,
                    min=1,
                    max=2000,
                    tooltip="Prior pictures for each class noun; 100 suit a LoRA.",
                ),
                io.Int.Input("steps", default=30, min=1, max=200, tooltip="Sampling steps of each picture."),
                io.Float.Input(
                    "guidance",
                    default=5.0,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="Classifier-free guidance; high values over-sharpen the priors.",
                ),
                seed_input("Seed of the prompts' order and the noise."),
                io.Int.Input(
                    "batch",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures sampled at once on a GPU; it changes memory and speed only. A CPU draws one at a "
                    "time.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=2048,
                    step=8,
                    advanced=True,
                    tooltip="Width in pixels; 0 takes the size that the base was trained at.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=2048,
                    step=8,
                    advanced=True,
                    tooltip="Height in pixels; 0 takes the size that the base was trained at.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="Own prompts instead of the built-in ones, one a line; {noun} stands for the class noun.",
                ),
                io.Combo.Input(
                    "clip",
                    options=[AUTO, NONE, *folders.transformers_folders(CLIPS)],
                    default=AUTO,
                    optional=True,
                    advanced=True,
                    tooltip="A CLIP rejects pictures that do not show the class or repeat another: a folder of "
                    "transformers in models/clip_vision. auto takes the base's own or the first there.",
                ),
                io.Combo.Input(
                    "segmenter",
                    options=[NONE, *phrase_finders()],
                    default=NONE,
                    optional=True,
                    advanced=True,
                    tooltip="A model that must find the class noun in each picture: GroundingDINO, OWLv2, Florence-2 "
                    "or CLIPSeg from models/sams and its neighbours.",
                ),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="The set with the prior pictures added."),
                io.Image.Output(display_name="sheet", tooltip="The priors with their prompts."),
                io.String.Output(display_name="report", tooltip="What was drawn, used again, and rejected and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, base: Any, set: Any, prompts: str = "", clip: str = AUTO, segmenter: str = NONE, **values: Any
    ) -> io.NodeOutput:
        from ...augmentation.priors.generate import PriorSettings, generate_priors
        from ...core.context import RunContext
        from ...core.text.syntax import check_placeholders, drawing_notes

        prompt_lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
        check_placeholders(prompt_lines, (NOUN,))
        notes = drawing_notes(prompt_lines, folders.prompt_files()["embedding_folders"], (NOUN,))
        settings = PriorSettings(**values, prompts=prompt_lines)
        with host.engine(cls.hidden.unique_id) as progress:
            context = RunContext(folders.priors_folder(), host.device(), progress, **folders.prompt_files())
            made = generate_priors(base, set, settings, context, filters_of(base, clip, segmenter))
        report = "\n".join((priors_report(made), *notes))
        sheet = priors_sheet(made.pictures.priors)
        return io.NodeOutput(made.pictures, sheet, report, ui=host.show(cls, sheet, report))


def filters_of(base: Any, clip: str, segmenter: str) -> Any:
    """The models that filter prior pictures."""
    from ...augmentation.priors.filter import Filters
    from ...core.values import content_key
    from ...vision.embedders.clip import Clip
    from ...vision.segmenters import open_finder

    clip_model: Any = None
    finder: Any = None
    places: list[Path] = []
    folder = None if clip == NONE else clip_for(base, clip)
    if folder is not None:
        log.info("priors are looked at by the CLIP in %s", folder)
        clip_model = Clip(folder, host.device())
        places.append(folder)
    elif clip == AUTO:
        log.info("priors are not looked at: there is no CLIP in models/clip_vision")
    if segmenter != NONE:
        place, _ = model_paths(segmenter, NONE)
        finder = partial(open_finder, place, host.device())
        places.append(place)
    prints = [folders.folder_print(place) for place in places]
    return Filters(clip_model, finder, content_key("filters", clip_model is None, finder is None, prints)[:16])


def priors_report(made: Any) -> str:
    """Lines on how many priors there are, how many were drawn now, and what was rejected and why."""
    lines = [f"{summary(made.pictures)}; {made.drawn} drawn now, {len(made.rejected)} rejected"]
    lines += [f"{one.picture.path.name}: {one.reason} ({one.prompt})" for one in made.rejected[:MOST_SHOWN]]
    return "\n".join(lines)


def priors_sheet(priors: Any) -> Any:
    """A sheet of priors, evenly chosen from many, with their prompts: (1, height, width, 3)."""
    from ...augmentation.images.load import load_picture
    from ...evaluation.report.grids import contact_sheet

    shown = [sample for sample in priors if not sample.pasted]
    shown = shown[:: -(-len(shown) // MOST_SHOWN)]
    return picture_tensor(contact_sheet([load_picture(s.image) for s in shown], [s.caption for s in shown]))
