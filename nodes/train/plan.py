"""A dry run of a training."""

from __future__ import annotations

from typing import Any

from ...core.settings import SubjectSettings
from ..comfy import host
from ..comfy.host import io, ui
from ..pictures.sets import picture_tensor
from ..schema.sockets import Adapter, Base, Set, Settings
from ..schema.validation_inputs import validation_inputs, validator_for
from .subject import check_subject

CATEGORY = "few-shot/train"


class TrainingPlanNode(io.ComfyNode):
    """A dry run of Train Subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotTrainingPlan",
            display_name="Training Plan",
            category=CATEGORY,
            description="Says what Train Subject would do with the same inputs: pictures, tokens, memory here and on "
            "other cards, time, how often each picture is seen. What was not measured is called estimated.",
            search_aliases=["dry run", "vram estimate", "memory estimate", "training time", "how many steps"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that would be trained on."),
                Set.Input("set", tooltip="Pictures of the subject, and priors if you made some."),
                Settings.Input("settings", optional=True, tooltip="Training Settings; without it all are chosen."),
                io.Int.Input(
                    "timed_steps",
                    default=5,
                    min=0,
                    max=100,
                    tooltip="Steps that are taken to measure their time and memory, and thrown away. 0 reads no "
                    "weights: all is estimated, no time is told, and an adapter is not tried.",
                ),
                Adapter.Input("adapter", optional=True, tooltip="The adapter that would be trained on from."),
                *validation_inputs(),
            ],
            outputs=[
                io.String.Output(display_name="plan", tooltip="The plan in lines."),
                io.Image.Output(display_name="crops", tooltip="The pictures as they would be cropped, with captions."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        base: Any,
        set: Any,
        timed_steps: int = 5,
        validation: str = "auto",
        validation_dino: str = "none",
        settings: Any = None,
        adapter: Any = None,
    ) -> io.NodeOutput:
        from ...trainers.plan.dry_run import plan_training
        from ...trainers.plan.report import crops, described

        settings = settings or SubjectSettings()
        check_subject(set, settings)
        chosen = validator_for(base, settings, validation, validation_dino)
        with host.engine(cls.hidden.unique_id) as progress:
            plan = plan_training(
                base,
                set,
                settings,
                host.device(),
                progress,
                host.TOKENIZER,
                validator=chosen.validator,
                timed=timed_steps,
                start_from=adapter,
            )
            sheet = picture_tensor(crops(plan))
        text = f"{described(plan)}\n{chosen.note}"
        host.say(cls.hidden.unique_id, text)
        shown = ui.PreviewImage(sheet, cls=cls).as_dict() | ui.PreviewText(text).as_dict()
        return io.NodeOutput(text, sheet, ui=shown)
