"""Widgets that say how pictures are drawn; the same on every node that draws samples."""

from __future__ import annotations

from ..comfy.host import io


def seed_input(tooltip: str, limit: int = 2**48) -> io.Input:
    """A seed below `limit`, which stays as it is from run to run."""
    return io.Int.Input("seed", default=0, min=0, max=limit - 1, control_after_generate=False, tooltip=tooltip)


def sampling_inputs(seed_tooltip: str) -> list[io.Input]:
    """How many pictures of each prompt, and how each is drawn."""
    return [
        io.Int.Input("count", default=1, min=1, max=64, tooltip="Pictures of each prompt, from seeds that follow."),
        seed_input(seed_tooltip, 2**63),
        io.Int.Input("steps", default=30, min=1, max=1000, tooltip="Sampling steps."),
        io.Float.Input("guidance", default=7.0, min=1.0, max=30.0, step=0.5, tooltip="Classifier-free guidance."),
    ]


def advanced_sampling_inputs() -> list[io.Input]:
    """What can mostly stay as it is."""
    own = "0 takes the base's own."
    return [
        io.String.Input("negative", default="", advanced=True, tooltip="What the pictures should not show."),
        io.Int.Input("width", default=0, min=0, max=4096, step=8, advanced=True, tooltip=own),
        io.Int.Input("height", default=0, min=0, max=4096, step=8, advanced=True, tooltip=own),
        io.Int.Input(
            "batch", default=4, min=1, max=64, advanced=True, tooltip="Pictures at once; memory and speed only."
        ),
    ]
