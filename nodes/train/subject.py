"""Training, and its settings."""

from __future__ import annotations

import re
from typing import Any

from ...core.errors import FewShotError
from ...trainers.subject.presets import CUSTOM, NAMES, PRESETS, with_preset
from ...trainers.subject.settings import SubjectSettings
from ..comfy import folders, host
from ..comfy.host import io
from ..look.samples import TRIGGER, notes_on
from ..schema.sockets import VALIDATION, Adapter, Base, Set, Settings
from ..schema.validation_inputs import comparing_models, validation_inputs, validator_for
from ..schema.widgets import widgets_of
from .learned import check_input, checked

CATEGORY = "few-shot/train"
# score (0 for the untrained base, at most 1) below which a training learned next to nothing
SMALLEST_GAIN = 0.1


class TrainingSettingsNode(io.ComfyNode):
    """Everything about training that has an automatic value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotTrainingSettings",
            display_name="Training Settings",
            category=CATEGORY,
            description="Settings of Train Subject. Values that mean auto are chosen when training starts, and the log "
            "says what was chosen and why.",
            search_aliases=["learning rate", "lora rank", "dreambooth settings", "training config"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(NAMES),
                    default=CUSTOM,
                    tooltip="Sets the values below to those of a way of training that has a name; changing one of "
                    "them makes it custom again.",
                    extra_dict={"presets": {name: dict(values) for name, values in PRESETS.items()}},
                ),
                *widgets_of(SubjectSettings, seed={"control_after_generate": False}),
            ],
            outputs=[Settings.Output(display_name="SETTINGS", tooltip="For Train Subject.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, steps: int | None = None) -> bool | str:
        try:
            SubjectSettings.from_mapping({} if steps is None else {"steps": steps})
        except FewShotError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, preset: str = CUSTOM, **values: Any) -> io.NodeOutput:
        given = cls.hidden.prompt[cls.hidden.unique_id]["inputs"]  # ComfyUI hands on only what the schema names
        former = {name: given[name] for name in SubjectSettings.FORMER if name in given}
        return io.NodeOutput(SubjectSettings.from_mapping({**with_preset(preset, values), **former}))


class TrainSubject(io.ComfyNode):
    """Trains an adapter on a subject. The run is stored on disk, so that it is neither lost nor trained twice."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotTrainSubject",
            display_name="Train Subject",
            category=CATEGORY,
            description="Trains a LoRA of the subject. Cancel keeps what was learned; queue again to go on. A run that "
            "ended is found by its inputs and not trained again.",
            search_aliases=["dreambooth", "train lora", "finetune", "lora training", "personalization"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model to train on."),
                Set.Input("set", tooltip="Pictures of the subject, and priors if you made some."),
                Settings.Input("settings", optional=True, tooltip="Training Settings; without it all are chosen."),
                Adapter.Input(
                    "adapter", optional=True, tooltip="An adapter to train on from, instead of from nothing."
                ),
                *validation_inputs(),
                check_input(),
            ],
            outputs=[
                Adapter.Output(display_name="ADAPTER", tooltip="What was learned, for this pack's nodes."),
                io.LoraModel.Output(
                    display_name="LORA_MODEL",
                    tooltip="The same for ComfyUI's own nodes. Load LoRA Model there applies it to MODEL only and "
                    "drops text-encoder parts; Apply Adapter keeps them.",
                ),
                io.LossMap.Output(display_name="LOSS_MAP", tooltip="The loss of every step and its terms."),
                io.String.Output(display_name="trigger", tooltip="The words that call the subject in a prompt."),
                Base.Output(
                    display_name="BASE",
                    tooltip="The base that what was learned belongs to: the one given, or with tuning full of all "
                    "parameters the one that was trained, which then also lies in output/checkpoints.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        base: Any,
        set: Any,
        validation: str = "auto",
        validation_dino: str = "none",
        settings: Any = None,
        adapter: Any = None,
        check: str = "auto",
    ) -> io.NodeOutput:
        from ...models.adapters.formats import to_kohya
        from ...models.adapters.token_files import word_note
        from ...trainers.check.subject import subject_check
        from ...trainers.subject.method import train_subject

        settings = settings or SubjectSettings()
        check_subject(set, settings)
        notes = text_notes(set, settings)
        chosen = validator_for(base, settings, validation, validation_dino)
        with host.engine(cls.hidden.unique_id) as progress:
            context = training_context(progress, set.trigger, chosen.validator)
            result = train_subject(base, set, settings, context, adapter)
            lora = to_kohya(result.adapter)
            seen = checked(
                check,
                lambda: comparing_models(base, validation, validation_dino),
                lambda checker: subject_check(base, set, settings, result, checker),
                context,
                result.folder,
            )
        losses = loss_map(result)
        steps = f"{len(result.losses)} steps, last loss {result.losses[-1]:.4f}"
        call = [note for note in [word_note(result.adapter)] if note]
        lines = [*seen.lines, steps, outcome(result, chosen.note), *call, *notes, result.folder]
        if result.model is not None:
            lines.append(folders.keep_checkpoint(result.model, f"{result.folder.name}.safetensors"))
        report = "\n".join(map(str, lines))
        return io.NodeOutput(
            result.adapter,
            lora,
            losses,
            result.adapter.trigger,
            result.base or base,
            ui=seen.show(cls, report),
        )


def check_subject(training_set: Any, settings: Any) -> None:
    """Raise FewShotError unless the set is of subjects and the settings are of their training."""
    if not training_set.references:
        raise FewShotError("the set holds no picture of the subject: connect Subject Pictures")
    if any(concept.kind == "relation" for concept in training_set.concepts):
        raise FewShotError("the set is of a relation: connect it to Train Relation")
    if not isinstance(settings, SubjectSettings):
        raise FewShotError("these are settings of another training: connect Training Settings")


def text_notes(training_set: Any, settings: Any) -> list[str]:
    """What of captions is learned as it is written, and of own prompts drawn as plain words or left out.

    Raises:
        FewShotError: a prompt holds what is nearly {trigger}.
    """
    from ...core.text.syntax import check_placeholders, weight_notes

    prompts = [settings.preview_prompt] if settings.preview_every else []
    prompts += settings.validation_prompts.split("|") if settings.validates else []
    check_placeholders(prompts, (TRIGGER,))
    captions = [sample.caption for sample in training_set.references]
    known = [word for concept in training_set.concepts for word in (concept.identifier, concept.description)]
    return [*weight_notes(captions, known), *notes_on(prompts, *known)]


def training_context(progress: host.NodeProgress, name: str, validator: Any = None) -> Any:
    """Where a training runs: ComfyUI's device, and a folder among the runs that is named after `name`."""
    from ...trainers.context import TrainingContext

    runs, device = folders.runs_folder(), host.device()
    return TrainingContext(runs, device, progress, **folders.prompt_files(), name=run_name(name), validator=validator)


def run_name(trigger: str) -> str:
    """The trigger phrase as a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "_", trigger).strip("_")[:40] or "subject"


def loss_map(result: Any) -> dict[str, Any]:
    """ComfyUI's LOSS_MAP: "loss" and each term, a number a step; and the validations, for Loss Curve."""
    losses = {"loss": list(result.losses), **{name: list(term) for name, term in result.terms.items()}}
    if result.validation is None:
        return losses
    return losses | {VALIDATION: result.validation.plain() | {"chosen": result.chosen}}


def outcome(result: Any, validation_note: str) -> str:
    """Which step was chosen, or why there was no choice."""
    if result.validation is None:
        return validation_note
    best = result.validation.best
    if best is None:
        return f"no validation saw a gain: the last step ({result.chosen}) is returned"
    validated = len(result.validation.points) - 1
    score = max(result.validation.scores)
    text = f"step {result.chosen} is the best of {validated} validated (score {score:.2f} of 1)"
    if score >= SMALLEST_GAIN:
        return text
    return f"{text}, which is hardly better than the untrained base: train longer, or look at pictures and captions"
