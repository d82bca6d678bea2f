"""Samples with and without an adapter, and the loss curve."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ...core.errors import FewShotError
from ..comfy import folders, host
from ..comfy.host import io, ui
from ..pictures.sets import picture_tensor
from ..schema.sampling_inputs import advanced_sampling_inputs, sampling_inputs
from ..schema.sockets import VALIDATION, Adapter, Base

if TYPE_CHECKING:
    import torch

CATEGORY = "few-shot/look"
TRIGGER = "{trigger}"
PROMPTS = "a photo of {trigger}"


class SampleGrid(io.ComfyNode):
    """The base without and with an adapter, prompt by prompt, from the same noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotSampleGrid",
            display_name="Sample Grid",
            category=CATEGORY,
            description="Draws every prompt without and with the adapter from the same noise, side by side. The "
            "pictures are those of KSampler with euler, simple and denoise 1.",
            search_aliases=["before after", "validation images", "test lora", "xy plot"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that draws."),
                Adapter.Input(
                    "adapter", optional=True, tooltip="The adapter to compare with; without it, the base alone."
                ),
                io.String.Input(
                    "prompts",
                    default=PROMPTS,
                    multiline=True,
                    tooltip="One prompt a line. {trigger} stands for the adapter's trigger phrase.",
                ),
                *sampling_inputs("Seed of the first picture."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Strength of the adapter in the second column.",
                ),
                *advanced_sampling_inputs(),
                io.Boolean.Input(
                    "watermark",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Puts an invisible mark into the pictures that says they were made by a model; Detect "
                    "Watermark finds it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="The labelled sheet."),
                io.Image.Output(display_name="before", tooltip="The base's pictures, prompt by prompt."),
                io.Image.Output(display_name="after", tooltip="The pictures with the adapter, in the same order."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, prompts: str | None = None) -> bool | str:
        return True if prompts is None or prompts.strip() else "there is no prompt: write one a line"

    @classmethod
    def execute(
        cls, base: Any, prompts: str, count: int, seed: int, steps: int, guidance: float, strength: float,
        negative: str = "", width: int = 0, height: int = 0, batch: int = 4, watermark: bool = False,
        adapter: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        from ...models.adapters.apply import applied
        from ...models.open import open_base
        from ...models.sampling import SamplingOptions, sample

        lines, notes = written_out(prompts, adapter), notes_on([*prompts.splitlines(), negative], *calling(adapter))
        texts = [line for line in lines for _ in range(count)]
        seeds = [(seed + number) % 2**63 for _ in lines for number in range(count)]
        columns = []
        with host.engine(cls.hidden.unique_id) as progress:
            with open_base(base, host.device(), progress, **folders.prompt_files()) as model:
                size = width or model.native_resolution, height or model.native_resolution
                options = SamplingOptions(*size, steps, guidance, negative, batch)
                draw = partial(sample, model, texts, seeds, options, progress)
                columns.append(draw())
                if adapter is not None:
                    with applied(model, [(adapter, strength)]):
                        columns.append(draw())
        if not all(bool(column.isfinite().all()) for column in columns):
            raise FewShotError(
                f"the pictures hold no numbers (NaN): strength is {strength}, guidance {guidance}; if those are right, "
                "set the base's dtype to float32"
            )
        images = [column.permute(0, 2, 3, 1).contiguous() for column in columns]
        images = [watermarked(column) for column in images] if watermark else images
        grid = sheet(images, texts)
        shown = host.show(cls, grid, "\n".join(notes)) if notes else ui.PreviewImage(grid, cls=cls)
        return io.NodeOutput(grid, images[0], images[-1], ui=shown)


def notes_on(prompts: Iterable[str], *words: str) -> list[str]:
    """A line on each kind of what is drawn as plain words or left out; `words` call subjects."""
    from ...core.text.syntax import drawing_notes

    return drawing_notes(prompts, folders.prompt_files()["embedding_folders"], (TRIGGER, *words), words)


def calling(*adapters: Any) -> list[str]:
    """The words that call what adapters learned."""
    return [word for one in adapters if one is not None for word in (one.trigger, *one.embeddings) if word]


def written_out(prompts: str, adapter: Any) -> list[str]:
    """The prompts, a line each, with the trigger phrase in its place."""
    from ...core.text.syntax import check_placeholders
    from ...core.text.weights import escaped

    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    check_placeholders(lines, (TRIGGER,))
    trigger = adapter.trigger if adapter is not None else ""
    if not trigger and any(TRIGGER in line for line in lines):
        raise FewShotError(
            f"a prompt holds {TRIGGER}, but there is no adapter that knows its trigger phrase: write the words out"
        )
    return [line.replace(TRIGGER, escaped(trigger)) for line in lines]


def sheet(images: list[torch.Tensor], labels: list[str]) -> torch.Tensor:
    """The pictures side by side with their prompts: (1, height, width, 3)."""
    from ...evaluation.report.grids import before_after

    rows = [[to_picture(column[number]) for column in images] for number in range(len(labels))]
    names = ("before", "after") if len(images) == 2 else ("base",)
    return picture_tensor(before_after(rows, labels, columns=names))


def watermarked(images: torch.Tensor) -> torch.Tensor:
    """(n, height, width, 3) in [0, 1] with the invisible mark in each."""
    import torch

    from ...evaluation.watermark import add_watermark

    return torch.cat([picture_tensor(add_watermark(to_picture(image))) for image in images])


def to_picture(image: torch.Tensor) -> Any:
    """(height, width, 3) in [0, 1] as a PIL picture."""
    from PIL import Image

    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().cpu().numpy())


class LossCurve(io.ComfyNode):
    """The course of the loss as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotLossCurve",
            display_name="Loss Curve",
            category=CATEGORY,
            description="Draws the loss of every step and its moving average, and below it the validations, if there "
            "were any, with the step that was chosen.",
            search_aliases=["plot loss", "training curve"],
            is_output_node=True,
            inputs=[
                io.LossMap.Input("losses", tooltip="From Train Subject or ComfyUI's own trainer."),
                io.Combo.Input(
                    "curves",
                    options=["loss", "terms", "all"],
                    default="loss",
                    tooltip="The loss that is minimised, the terms it is made of, or both.",
                ),
                io.String.Input("title", default="", optional=True, tooltip="Stands above the curve."),
            ],
            outputs=[io.Image.Output(display_name="curve", tooltip="The plot.")],
        )

    @classmethod
    def execute(cls, losses: dict[str, Any], curves: str = "loss", title: str = "") -> io.NodeOutput:
        from ...evaluation.report.plots import below, loss_curve, validation_curve
        from ...evaluation.selection import Curve

        losses = dict(losses)
        validation = losses.pop(VALIDATION, None)
        chosen = {
            name: values for name, values in losses.items() if curves == "all" or (name == "loss") == (curves == "loss")
        }
        if not chosen:
            raise FewShotError(f"this loss map holds only {', '.join(losses)}, no {curves}: choose another")
        picture = loss_curve(chosen, title)
        if validation is not None and (points_curve := Curve.of(validation)).anchors is not None:
            picture = below(picture, validation_curve(points_curve, validation["chosen"]))
        curve = picture_tensor(picture)
        return io.NodeOutput(curve, ui=ui.PreviewImage(curve, cls=cls))
