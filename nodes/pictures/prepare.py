"""Pictures cropped, sized and looked through."""

from __future__ import annotations

from typing import Any

from ..comfy import folders, host
from ..comfy.host import io
from ..schema.sockets import Set
from .sets import picture_tensor, summary

CATEGORY = "few-shot/pictures"
MOST_SHOWN = 48


class PreparePictures(io.ComfyNode):
    """A person's pictures made fit for training, with a sheet and a table of what is wrong with them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotPreparePictures",
            display_name="Prepare Pictures",
            category=CATEGORY,
            description="Crops and sizes the pictures, leaves out those that are there twice, and warns of blur, small "
            "pictures and long captions. The originals on disk stay as they are.",
            search_aliases=["crop", "resize dataset", "aspect bucket", "duplicates", "contact sheet", "blur"],
            inputs=[
                Set.Input("set", tooltip="The pictures of the subject."),
                io.Combo.Input(
                    "crop",
                    options=["subject", "face", "centre", "buckets", "none"],
                    default="subject",
                    tooltip="A square around the mask, around the largest face (needs scikit-image), or in the middle; "
                    "to the nearest usual aspect (buckets); or no crop. Without mask or face it is the middle. "
                    "Training itself crops everything to a square around the mask, so buckets and none leave that to "
                    "it.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=8,
                    max=4096,
                    step=8,
                    tooltip="Side of the squares in pixels; buckets have about as many pixels. Choose what you train "
                    "at.",
                ),
                io.Boolean.Input(
                    "upscale",
                    default=False,
                    tooltip="Enlarge pictures that are smaller. The blur of enlarging is learned with the subject.",
                ),
                io.Combo.Input(
                    "duplicates",
                    options=["leave out", "keep"],
                    default="leave out",
                    tooltip="What happens to copies of a picture, also resized or saved again. They are named in any "
                    "case.",
                ),
                io.Float.Input(
                    "tightness",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="0 keeps as much of each picture as fits, 1 only the box of subject or face.",
                ),
            ],
            outputs=[
                Set.Output(display_name="SET", tooltip="The prepared pictures with their captions and masks."),
                io.Image.Output(display_name="sheet", tooltip="All prepared pictures, pale beside the subject."),
                io.String.Output(
                    display_name="report", tooltip="A line on each: file, size, crop, made, tokens of 77, warnings."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, set: Any, **values: Any) -> io.NodeOutput:
        from ...augmentation.captions.rules import clip_tokens
        from ...augmentation.images.prepare import PrepareSettings, prepare, table

        settings = PrepareSettings(**values)
        with host.engine(cls.hidden.unique_id) as progress:
            made, rows = prepare(set, settings, folders.sent_pictures_folder(), progress, clip_tokens(host.TOKENIZER))
        report = table(rows)
        sheet = prepared_sheet(rows)
        return io.NodeOutput(made, sheet, report, ui=host.show(cls, sheet, f"{summary(made)}\n{report}"))


def prepared_sheet(rows: Any) -> Any:
    """A sheet of the prepared pictures with their names and warnings: (1, height, width, 3)."""
    from ...augmentation.images.load import load_mask, load_picture
    from ...augmentation.images.prepare import one_row_per_picture
    from ...evaluation.report.grids import contact_sheet, masked

    kept = [row for row in one_row_per_picture(rows) if row.sample is not None][:MOST_SHOWN]
    shown = []
    for row in kept:
        mask = row.sample.mask
        shown.append(masked(load_picture(row.sample.image), None if mask is None else load_mask(mask)))
    labels = [f"{row.name}: {row.bucket[0]} x {row.bucket[1]}. {'; '.join(row.warnings)}" for row in kept]
    return picture_tensor(contact_sheet(shown, labels))
