"""Composites of cut-out subjects."""

from __future__ import annotations

from typing import Any

from ..comfy import folders, host
from ..comfy.host import io
from ..pictures.sets import picture_tensor, summary
from ..schema.sockets import Set

CATEGORY = "few-shot/augment"
MOST_SHOWN = 24


class SegmentPaste(io.ComfyNode):
    """Composites of a set's masked pictures on simple backgrounds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotSegmentPaste",
            display_name="Segment and Paste",
            category=CATEGORY,
            description="Cuts the subjects out by their masks and lays them on simple backgrounds in other sizes and "
            "places, alone or two together. Masks and captions follow. The originals stay in the set.",
            search_aliases=["random paste", "cut out", "composite", "copy paste augmentation", "break background"],
            inputs=[
                Set.Input("set", tooltip="Pictures with masks: from their folder, a socket, or Segment by Prompt."),
                io.Int.Input(
                    "variants",
                    default=8,
                    min=0,
                    max=200,
                    tooltip="Composites of each reference picture; each is encoded once before training.",
                ),
                io.Int.Input(
                    "prior_variants",
                    default=1,
                    min=0,
                    max=50,
                    tooltip="Composites of each prior picture that has a mask.",
                ),
                io.Float.Input(
                    "share",
                    default=0.5,
                    min=0.05,
                    max=0.95,
                    step=0.05,
                    tooltip="How often training draws a composite of a subject shown alone rather than an original; "
                    "in its last fifth only originals of it. Several subjects together are drawn as the training's "
                    "composite_share says, to the end.",
                ),
                io.Float.Input(
                    "together",
                    default=0.3,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How many composites show two subjects, where the set has two things to show.",
                ),
                io.Combo.Input(
                    "background",
                    options=["any", "solid", "gradient", "texture"],
                    default="any",
                    tooltip="What lies behind; the caption names it.",
                ),
                io.Float.Input(
                    "background_weight",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Weight of the loss on a composite's background, so that plain backgrounds are not "
                    "learned.",
                ),
                io.Boolean.Input(
                    "flip",
                    default=False,
                    tooltip="Mirror half of the cut-outs. Leave it off for subjects with writing or a left and a "
                    "right.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**48 - 1,
                    control_after_generate=False,
                    tooltip="Seed of all that is drawn.",
                ),
                io.Boolean.Input(
                    "mixed",
                    default=True,
                    advanced=True,
                    tooltip="A subject may stand beside a thing of its class cut out of a prior picture: a sks dog and "
                    "a dog. It teaches the identifier apart from the class.",
                ),
                io.Boolean.Input(
                    "described",
                    default=True,
                    advanced=True,
                    tooltip="Captions name the background, and a subject that is far away or close up. Turn it off for "
                    "a base that does not know such words, or to keep captions to the trigger.",
                ),
                io.Float.Input(
                    "smallest",
                    default=0.35,
                    min=0.05,
                    max=1.4,
                    step=0.05,
                    advanced=True,
                    tooltip="Smallest longer edge of a subject alone, as a share of the composite's.",
                ),
                io.Float.Input(
                    "largest",
                    default=0.95,
                    min=0.05,
                    max=1.4,
                    step=0.05,
                    advanced=True,
                    tooltip="Largest longer edge of a subject alone. No cut-out is enlarged beyond 1.3 times.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=2048,
                    step=8,
                    advanced=True,
                    tooltip="Side of a composite in pixels; 0 takes that of the pictures, at most 1024.",
                ),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="The set with the composites behind its pictures."),
                io.Image.Output(display_name="sheet", tooltip="Composites with the outlines of their masks."),
                io.String.Output(display_name="report", tooltip="What was made, and what was left out and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, set: Any, **values: Any) -> io.NodeOutput:
        from ...augmentation.composites.paste import PasteSettings, paste

        settings = PasteSettings(**values)
        with host.engine(cls.hidden.unique_id) as progress:
            result = paste(set, settings, folders.sent_pictures_folder(), progress)
        made = result.made
        line = f"{summary(result.pictures)}; {len(made)} are composites, {result.together} of them show two"
        report = "\n".join([line, *result.notes])
        sheet = outlined(made[:: -(-len(made) // MOST_SHOWN)])
        return io.NodeOutput(result.pictures, sheet, report, ui=host.show(cls, sheet, report))


def outlined(samples: Any) -> Any:
    """A sheet of pictures with the outlines of their masks and their captions: (1, height, width, 3)."""
    from ...augmentation.images.load import load_mask, load_picture
    from ...evaluation.report.grids import contact_sheet, outline

    shown = [outline(load_picture(s.image), [load_mask(mask) for mask in s.masks.values()]) for s in samples]
    return picture_tensor(contact_sheet(shown, [sample.caption for sample in samples]))
