"""Relations: their pictures, the settings of their training, and the training itself."""

from __future__ import annotations

from typing import Any

from ...core.errors import FewShotError
from ...trainers.relation.settings import RelationSettings
from ..comfy import folders, host
from ..comfy.host import io
from ..comfy.timestep_range import usage_note
from ..pictures import sets
from ..schema.sockets import Adapter, Base, Set, Settings
from ..schema.validation_inputs import comparing_models
from ..schema.widgets import widgets_of
from . import subject
from .learned import check_input, checked

FOLDER, SOCKET = sets.FOLDER, sets.SOCKET


class RelationPictures(io.ComfyNode):
    """A few pictures in which two things relate in the same way."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        folder = [
            io.Combo.Input(
                "folder",
                options=folders.picture_folders(),
                tooltip="A folder in ComfyUI's input folder with 2 to 10 pictures. Read too: name.txt (captions, one "
                "a line), and ReVersion's text.json.",
            ),
            io.String.Input(
                "things",
                default="",
                multiline=True,
                optional=True,
                tooltip="The two things, for pictures without captions of their own: cat, chair. Several lines are "
                "several captions.",
            ),
        ]
        sockets = [
            io.Image.Input("images", tooltip="The pictures of the relation."),
            io.String.Input(
                "captions",
                default="",
                multiline=True,
                tooltip="One line for each picture, or one for all: cat, chair; or cat <R> chair, in a room.",
            ),
        ]
        return io.Schema(
            node_id="FewShotRelationPictures",
            display_name="Relation Pictures",
            category=sets.CATEGORY,
            description="A few pictures in which two things relate in the same way, and the names of the things.",
            search_aliases=["reversion", "relation images", "training images", "dataset"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[io.DynamicCombo.Option(FOLDER, folder), io.DynamicCombo.Option(SOCKET, sockets)],
                    tooltip="Where the pictures come from: a folder in ComfyUI's input folder, or sockets.",
                ),
                io.String.Input(
                    "identifier", default="<R>", tooltip="The word that will stand for the relation, in no dictionary."
                ),
                io.String.Input(
                    "relation",
                    default="",
                    optional=True,
                    tooltip="The relation in plain words (painted on). Captions that hold them are left out, since the "
                    "new word shall come to mean them; they stand for it where a metric reads the prompt.",
                ),
            ],
            outputs=[Set.Output(display_name="SET", tooltip="The pictures, once for each of their captions.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, Any] | None = None, **_: Any) -> str:
        return sets.SubjectPictures.fingerprint_inputs(source=source)

    @classmethod
    def execute(cls, identifier: str, source: dict[str, Any] | None = None, relation: str = "") -> io.NodeOutput:
        from ...augmentation.images import relation_pictures

        source = source or {}
        warnings: list[str] = []
        if source.get("source") == FOLDER:
            place = folders.picture_folder(source["folder"])
            training_set = relation_pictures.relation_from_folder(
                place, identifier, relation, source.get("things", ""), warnings
            )
        elif source.get("source") == SOCKET:
            training_set = relation_pictures.relation_from_tensors(
                source["images"], folders.sent_pictures_folder(), identifier, relation, source.get("captions", "")
            )
        else:
            raise FewShotError(f"no such source {source.get('source')!r}: choose '{FOLDER}' or '{SOCKET}'")
        different = len({sample.image.key for sample in training_set.samples})
        line = f"{different} pictures of {training_set.trigger}, {len(training_set.samples)} captions"
        return io.NodeOutput(training_set, ui=host.say(cls.hidden.unique_id, "\n".join([line, *warnings])))


class RelationTrainingSettings(io.ComfyNode):
    """Everything about a relation's training that has a default."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotRelationSettings",
            display_name="Relation Settings",
            category=subject.CATEGORY,
            description="Settings of Train Relation. Values that mean auto are chosen when training starts, and the "
            "log says what was chosen and why.",
            search_aliases=["reversion settings", "steering", "textual inversion settings"],
            inputs=widgets_of(RelationSettings, seed={"control_after_generate": False}),
            outputs=[Settings.Output(display_name="SETTINGS", tooltip="For Train Relation.")],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(RelationSettings.from_mapping(values))


class TrainRelation(io.ComfyNode):
    """Learns a word for a relation; the base stays as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotTrainRelation",
            display_name="Train Relation",
            category=subject.CATEGORY,
            description="Learns a word for how two things relate. Nothing else changes: the result is an embedding, or "
            "with high_noise_rank a small LoRA of noisy timesteps beside it. "
            "Cancel keeps what was learned; queue again to go on.",
            search_aliases=["reversion", "relation inversion", "textual inversion", "embedding training"],
            is_output_node=True,
            inputs=[
                Base.Input("base", tooltip="The model that the word is learned for."),
                Set.Input("set", tooltip="Relation Pictures, best with more captions from Expand Captions."),
                Settings.Input("settings", optional=True, tooltip="Relation Settings; without it the defaults."),
                Adapter.Input("adapter", optional=True, tooltip="A learned word to train on from."),
                check_input(),
            ],
            outputs=[
                Adapter.Output(display_name="ADAPTER", tooltip="The word, for this pack's nodes."),
                io.LossMap.Output(display_name="LOSS_MAP", tooltip="The loss of every step and its terms."),
                io.String.Output(
                    display_name="trigger",
                    tooltip="The word. Apply Adapter teaches it to CLIP, where a prompt says cat embedding:<R> chair; "
                    "Save Adapter writes it as an embedding, which is called by its file's name.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, base: Any, set: Any, settings: Any = None, adapter: Any = None, check: str = "auto"
    ) -> io.NodeOutput:
        from ...trainers.check.relation import relation_check
        from ...trainers.relation.gain import explained
        from ...trainers.relation.method import related, train_relation

        settings = settings or RelationSettings()
        if not isinstance(settings, RelationSettings):
            raise FewShotError("these are settings of Train Subject: connect Relation Settings")
        with host.engine(cls.hidden.unique_id) as progress:
            context = subject.training_context(progress, f"relation {set.concepts[0].description or set.trigger}")
            result = train_relation(base, set, settings, context, adapter)
            seen = checked(
                check,
                lambda: comparing_models(base),
                lambda checker: relation_check(base, set, settings, result, checker),
                context,
                result.folder,
            )
        warnings: list[str] = []
        related(set, warnings)
        first = f"{len(result.losses)} steps, last loss {result.losses[-1]:.4f}"
        warnings += subject.text_notes(set, settings)
        lines = [
            *seen.lines,
            first,
            explained(result.readings, settings),
            *warnings,
            *settings.idle,
            usage_note(result.adapter),
        ]
        lines = [*filter(None, lines), str(result.folder)]
        report = "\n".join(lines)
        ui = seen.show(cls, report)
        return io.NodeOutput(result.adapter, subject.loss_map(result), result.adapter.trigger, ui=ui)
