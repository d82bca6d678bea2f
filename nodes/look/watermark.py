"""Whether pictures carry the mark that samples may be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..comfy import host
from ..comfy.host import io
from .samples import to_picture

if TYPE_CHECKING:
    import torch


class DetectWatermark(io.ComfyNode):
    """Looks for the invisible mark in each picture of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotDetectWatermark",
            display_name="Detect Watermark",
            category="few-shot/look",
            description="Says which pictures carry the invisible mark that Sample Grid, Evaluate LoRA and Strength "
            "Sweep put into samples where watermark is on.",
            search_aliases=["watermark", "provenance", "made by a model"],
            is_output_node=True,
            inputs=[io.Image.Input("images", tooltip="Pictures from anywhere, neither resized nor turned.")],
            outputs=[
                io.Boolean.Output(display_name="found", tooltip="Whether any of them carries the mark."),
                io.String.Output(display_name="report", tooltip="A line for each picture."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, images: torch.Tensor) -> io.NodeOutput:
        from ...evaluation.watermark import THRESHOLD, score

        scores = [score(to_picture(image)) for image in images]
        lines = [
            f"picture {number + 1}: {'marked' if value > THRESHOLD else 'no mark'} ({value:.1f}; marked above "
            f"{THRESHOLD})"
            for number, value in enumerate(scores)
        ]
        report = "\n".join(lines)
        found = any(value > THRESHOLD for value in scores)
        return io.NodeOutput(found, report, ui=host.say(cls.hidden.unique_id, report))
