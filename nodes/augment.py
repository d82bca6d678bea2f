"""What makes more of few pictures."""

from __future__ import annotations

from typing import Any

from . import host
from .host import io
from .pictures import said_of
from .sockets import Base, Set

CATEGORY = "few-shot/augment"


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
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**48 - 1,
                    control_after_generate=False,
                    tooltip="Seed of the prompts' order and the noise.",
                ),
                io.Int.Input(
                    "batch",
                    default=4,
                    min=1,
                    max=64,
                    advanced=True,
                    tooltip="Pictures sampled at once; it changes memory and speed only.",
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
            ],
            outputs=[Set.Output(display_name="SET", tooltip="The set with the prior pictures added.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, base: Any, set: Any, prompts: str = "", **values: Any) -> io.NodeOutput:
        from ..augmentation.priors import PriorSettings, generate_priors

        own = tuple(line.strip() for line in prompts.splitlines() if line.strip())
        settings = PriorSettings(**values, prompts=own)
        with host.engine(cls.hidden.unique_id) as watcher:
            more = generate_priors(
                base, set, settings, host.priors_folder(), host.device(), watcher, tokenizer_folder=host.TOKENIZER
            )
        return io.NodeOutput(more, ui=host.say(cls.hidden.unique_id, said_of(more)))
