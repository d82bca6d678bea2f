"""The one node that goes to the network, when a person runs it."""

from __future__ import annotations

from ...vision.fetch import FETCHABLE_MODELS, fetch, is_complete, model_folder
from ..comfy import folders, host
from ..comfy.host import io


class FetchModel(io.ComfyNode):
    """Brings one optional model from the Hugging Face hub into ComfyUI's folders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotFetchModel",
            display_name="Fetch Model",
            category="few-shot/base",
            description="Brings one optional model (for metrics, masks, captions) from the Hugging Face hub into "
            "ComfyUI's models, as safetensors. Nothing else in this pack downloads anything. Press R afterwards, so "
            "that the other nodes list it.",
            search_aliases=["download model", "hugging face", "get clip", "get dino", "get sam"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(FETCHABLE_MODELS),
                    tooltip="; ".join(
                        f"{name}: {known.use} (into {known.kind})" for name, known in FETCHABLE_MODELS.items()
                    ),
                )
            ],
            outputs=[io.String.Output(display_name="folder", tooltip="Where the model lies.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str) -> bool:
        """Whether it is there: a folder that was deleted is fetched again."""
        return is_complete(model_folder(model, folders.models_folder(FETCHABLE_MODELS[model].kind)))

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        node = cls.hidden.unique_id
        folder = fetch(model, folders.models_folder(FETCHABLE_MODELS[model].kind), host.NodeProgress(node))
        ui = host.say(node, f"{model} lies in {folder}")
        return io.NodeOutput(str(folder), ui=ui)
