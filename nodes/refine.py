"""Refinement by rewards: what is rewarded, the settings, and the refinement itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.errors import FewShotError
from ..trainers.refine.settings import RefinementSettings
from ..vision.places import CLIPS, DINOS, HPS, INSTRUCTIONS, PICK, REWARD
from .comfy import folders, host
from .comfy.host import io
from .look.samples import calling, notes_on
from .schema.metric_inputs import clip_folder, dino_folders, preference_folders
from .schema.sockets import Adapter, Base, Prompts, Reward, Set, Settings
from .schema.validation_inputs import AUTO, NONE, comparing_models, validation_inputs, validator_for
from .schema.widgets import widgets_of
from .train.learned import check_input, checked
from .train.subject import loss_map, training_context

CATEGORY = "few-shot/refine"
# by widget: the reward's name, and its model's in `preference_folders`
LEARNED = {"image_reward": ("ImageReward", REWARD), "pickscore": ("PickScore", PICK), "hpsv2": ("HPSv2", HPS)}
UNWATCHED = (
    "likeness and variety were not watched, as no CLIP validates: which reading is returned follows from the held-out "
    "reward alone"
)


def weight_input(name: str, default: float, tooltip: str, optional: bool = False) -> io.Input:
    return io.Float.Input(name, optional=optional, default=default, min=0.0, max=100.0, step=0.1, tooltip=tooltip)


class RewardNode(io.ComfyNode):
    """What pictures are rewarded for: metrics and their weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotReward",
            display_name="Reward",
            category=CATEGORY,
            description="What Refine LoRA rewards pictures for: a mix of metrics, each compared within its own spread, "
            "so that weights mean the same for all of them.",
            search_aliases=["image reward", "pickscore", "hps", "clip score", "reinforcement learning", "rl"],
            inputs=[
                weight_input("clip_text", 1.0, "Weight of CLIP-T: how well the picture fits its prompt. 0 is off."),
                weight_input("likeness", 0.5, "Weight of the likeness to the set's pictures, so that it is not traded "
                             "away. Only prompts that name the subject earn it. 0 is off."),
                weight_input("image_reward", 0.0, "Weight of ImageReward, the paper's reward. 0 is off."),
                weight_input("pickscore", 0.0, "Weight of PickScore. 0 is off."),
                weight_input("hpsv2", 0.0, "Weight of HPSv2. 0 is off."),
                io.Combo.Input(
                    "clip",
                    options=[AUTO, *folders.transformers_folders(CLIPS)],
                    default=AUTO,
                    tooltip="The CLIP of clip_text and clip_contrast: a folder of transformers in models/clip_vision. "
                    "auto takes the base's own or the first there.",
                ),
                io.Combo.Input(
                    "dino",
                    options=[AUTO, NONE, *folders.transformers_folders(DINOS)],
                    default=AUTO,
                    tooltip="What sees the likeness: a DINO's folder of transformers in models/clip_vision. auto takes "
                    "the first there, else the CLIP, as none does.",
                ),
                Base.Input("base", optional=True, tooltip="The base, whose own CLIP auto takes where it has one."),
                Set.Input("set", optional=True, tooltip="The subject's pictures, for likeness."),
                weight_input("clip_contrast", 0.0, "Weight of CLIP-T contrast: how much of what a prompt adds to the "
                             "words that all prompts begin with the picture shows. Take it in the place of clip_text "
                             "where a subject hardly ever does what it is asked. 0 is off.", optional=True),
            ],
            outputs=[
                Reward.Output(display_name="REWARD", tooltip="For Refine LoRA."),
                io.String.Output(display_name="report", tooltip="What is rewarded, and what was left out and why."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, clip_text: float, likeness: float, image_reward: float, pickscore: float, hpsv2: float,
        clip: str = AUTO, dino: str = AUTO, base: Any = None, set: Any = None, clip_contrast: float = 0.0,
    ) -> io.NodeOutput:  # fmt: skip
        from ..evaluation import reward as rewards

        check_subject(set)
        terms, left_out = [], []
        for widget, weight in (("image_reward", image_reward), ("pickscore", pickscore), ("hpsv2", hpsv2)):
            if weight:
                terms.append(rewards.RewardTerm(LEARNED[widget][0], preference_folder(widget), weight))
        for kind, widget, weight in (
            ("CLIP-T", "clip_text", clip_text), ("CLIP-T contrast", "clip_contrast", clip_contrast),
        ):  # fmt: skip
            if weight:
                terms.append(rewards.RewardTerm(kind, needed_clip(base, clip, widget), weight))
        pictures = tuple(sample.image for sample in set.references) if set is not None else ()
        if likeness and not pictures:
            left_out.append("likeness is left out: no pictures of the subject are connected")
        elif likeness:
            dinos = dino_folders(dino)
            embedder = dinos[0] if dinos else needed_clip(base, clip, "likeness")
            terms.append(rewards.RewardTerm("DINO" if dinos else "CLIP-I", embedder, likeness))
        value = rewards.Reward(tuple(terms), pictures)
        lines = [f"{term.kind} x {term.weight:g} ({term.folder.name})" for term in value.terms]
        report = "\n".join([*lines, *left_out])
        return io.NodeOutput(value, report, ui=host.say(cls.hidden.unique_id, report))


def preference_folder(widget: str) -> Path:
    """The folder of a preference model. Raises FewShotError where there is none, saying which files go where."""
    name, kind = LEARNED[widget]
    folder = preference_folders().get(kind)
    if folder is None:
        raise FewShotError(f"there is no {name} on the disk: {INSTRUCTIONS[kind]}, or set {widget} to 0")
    return folder


def needed_clip(base: Any, clip: str, widget: str) -> Path:
    folder = clip_folder(base, clip)
    if folder is None:
        raise FewShotError(
            f"{widget} needs a CLIP and there is none: put the folder of a transformers CLIPModel, such as "
            f"openai/clip-vit-base-patch32, into models/clip_vision, connect a base that has one, or set {widget} to 0"
        )
    return folder


class RefinementSettingsNode(io.ComfyNode):
    """Everything about a refinement that has a default."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotRefinementSettings",
            display_name="Refinement Settings",
            category=CATEGORY,
            description="Settings of Refine LoRA. Values that mean auto are chosen when it starts, and the log says "
            "what was chosen and why.",
            search_aliases=["ddpo settings", "grpo settings", "rl settings", "instructbooth"],
            inputs=widgets_of(RefinementSettings, seed={"control_after_generate": False}),
            outputs=[Settings.Output(display_name="SETTINGS", tooltip="For Refine LoRA.")],
        )

    @classmethod
    def validate_inputs(cls, method: str | None = None) -> bool | str:
        """The method is checked here, as ComfyUI would refuse the name that a method had in earlier versions."""
        try:
            RefinementSettings.from_mapping({} if method is None else {"method": method})
        except FewShotError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(RefinementSettings.from_mapping(values))


def check_subject(training_set: Any) -> None:
    """Raise FewShotError for a set of a relation, whose pictures show no subject to compare with."""
    if training_set is not None and any(concept.kind == "relation" for concept in training_set.concepts):
        raise FewShotError("the set is of a relation, and what is refined is a subject: connect Subject Pictures")


class RefineLora(io.ComfyNode):
    """Learns a LoRA over a subject's, so that its pictures earn more of a reward."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotRefineLora",
            display_name="Refine LoRA",
            category=CATEGORY,
            description="Teaches a subject LoRA what is rewarded, such as following prompts, by reinforcement "
            "learning: draws pictures, rewards them, and learns a second LoRA over the first. Cancel keeps what was "
            "learned; queue again to go on.",
            search_aliases=["instructbooth", "ddpo", "grpo", "reinforcement learning", "rlhf", "reward", "dpo"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that the subject was learned on, or one tuned to it in full."),
                Prompts.Input("prompts", tooltip="Prompt Set, best with refinement as its source."),
                Reward.Input("reward", tooltip="What pictures are rewarded for."),
                Adapter.Input(
                    "adapter", optional=True, tooltip="The subject's LoRA, from training or Load Adapter. It stays as "
                    "it is. Nothing: the base itself is the subject's.",
                ),
                Set.Input("set", optional=True, tooltip="The subject's pictures, with which likeness is watched."),
                Settings.Input("settings", optional=True, tooltip="Refinement Settings; without it the defaults."),
                *validation_inputs(),
                check_input(),
            ],
            outputs=[
                Adapter.Output(
                    display_name="ADAPTER", tooltip="Subject and refinement in one. Where that cannot be, the refining "
                    "LoRA alone, and the node says why.",
                ),
                Adapter.Output(
                    display_name="REFINING", tooltip="The refining LoRA alone, which goes on top of the subject's."
                ),
                io.LoraModel.Output(display_name="LORA_MODEL", tooltip="ADAPTER for ComfyUI's own nodes."),
                io.LossMap.Output(
                    display_name="LOSS_MAP", tooltip="The reward of each step, the loss, the distance to the "
                    "subject, and what the readings of held-out prompts saw."
                ),
                io.String.Output(display_name="trigger", tooltip="The words that call the subject in a prompt."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, base: Any, prompts: Any, reward: Any, adapter: Any = None, set: Any = None, settings: Any = None,
        validation: str = AUTO, validation_dino: str = NONE, check: str = AUTO,
    ) -> io.NodeOutput:  # fmt: skip
        from ..models.adapters.formats import to_kohya
        from ..trainers.check.refinement import refinement_check
        from ..trainers.refine.method import RefinementGoal, refine_adapter, trigger_of

        check_subject(set)
        settings = settings or RefinementSettings()
        if not isinstance(settings, RefinementSettings):
            raise FewShotError("these are settings of another training: connect Refinement Settings")
        chosen = validator_for(base, settings, validation, validation_dino)
        subject = trigger_of(adapter, set) or base.name
        with host.engine(cls.hidden.unique_id) as progress:
            context = training_context(progress, f"refined {subject}", chosen.validator)
            goal = RefinementGoal(prompts, reward)
            result = refine_adapter(base, adapter, goal, settings, context, set)
            seen = checked(
                check,
                lambda: comparing_models(base, validation, validation_dino),
                lambda checker: refinement_check(base, adapter, goal, settings, result, (checker, set)),
                context,
                result.training.folder,
            )
        given = result.combined or result.adapter
        lines = [
            *seen.lines,
            *reading_lines(result.readings),
            *([result.apart] if result.apart else []),
            *notes_on([prompt.text for prompt in prompts.prompts], *calling(adapter)),
            f"watched over by {chosen.names}" if chosen.validator is not None else UNWATCHED,
            str(result.training.folder),
        ]
        ui = seen.show(cls, "\n".join(lines))
        trigger, training = result.adapter.trigger, result.training
        losses = loss_map(training) | reading_curves(result.readings, len(training.losses))
        return io.NodeOutput(given, result.adapter, to_kohya(given), losses, trigger, ui=ui)


def reading_lines(readings: Any) -> list[str]:
    """A line for each reading: the held-out reward's gain, the guards, and which one was returned."""
    from ..trainers.refine.guards import line

    lines = []
    for row in readings.get("readings", ()):
        mark = " (returned)" if row["step"] == readings["best"] else ""
        lines.append(line(row["step"], row["gain"], row, row["failed"]) + mark)
    return lines


def reading_curves(readings: Any, steps: int) -> dict[str, list[float]]:
    """What the readings saw, for LOSS_MAP: at each step the last one that was taken by then."""
    from ..trainers.refine.guards import AXES

    rows = readings.get("readings", ())
    curves = {}
    for name, title in (("gain", "held-out reward"), *((axis, f"reading {axis.replace('_', '-')}") for axis in AXES)):
        known = [(row["step"], row[name]) for row in rows if name in row]
        if known and known[0][0] == 0:
            curves[title] = [next(value for at, value in reversed(known) if at <= step) for step in range(1, steps + 1)]
    return curves
