"""Adapters as files, and on ComfyUI's models."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

from ...core.atomic import shortened
from ...core.errors import FewShotError
from ...models.adapters.families import KNOWN, family_named
from ..comfy import folders, host
from ..comfy.host import io
from ..comfy.timestep_range import usage_note, with_timestep_range
from ..schema.sockets import Adapter

CATEGORY = "few-shot/files"
FILE, SOCKET, EMBEDDING = "file", "LORA_MODEL", "embedding"
KINDS = {FILE: "loras", EMBEDDING: "embeddings"}
AUTO = "auto"
BESIDE_WORD = 150  # bytes of a name that a learned word follows

log = logging.getLogger(__name__)


class SaveAdapter(io.ComfyNode):
    """Writes an adapter where ComfyUI, A1111 and Forge look for it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotSaveAdapter",
            display_name="Save Adapter",
            category=CATEGORY,
            description="Writes the LoRA to output/loras, and learned words to output/embeddings. ComfyUI lists both "
            "at once (press R in an open graph). A file is never written over: names are counted.",
            search_aliases=["save lora", "export lora", "save embedding"],
            is_output_node=True,
            inputs=[
                Adapter.Input("adapter", tooltip="What to save."),
                io.String.Input(
                    "name", default="subject", tooltip="The file's name, without folder, number and ending."
                ),
            ],
            outputs=[io.String.Output(display_name="name", tooltip="The name under which ComfyUI lists the LoRA.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        try:
            if name is not None:
                folders.checked_name(name)
        except FewShotError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, adapter: Any, name: str) -> io.NodeOutput:
        from ...models.adapters.formats import write_lora
        from ...models.adapters.token_files import plain_word, word_note, write_embedding

        name = folders.checked_name(name)
        written = []
        if adapter.factors:
            written.append(write_lora(adapter, folders.free_path(folders.output_folder("loras"), name, ".safetensors")))
        for word in adapter.embeddings:
            file_name = name if len(adapter.embeddings) == 1 else f"{shortened(name, BESIDE_WORD)}_{plain_word(word)}"
            path = folders.free_path(folders.output_folder("embeddings"), file_name, ".safetensors")
            written.append(write_embedding(adapter, path, word))
        if not written:
            raise FewShotError("the adapter holds neither a LoRA nor an embedding: connect what a training node gave")
        for path in written:
            log.info("wrote %s", path)
        report = "\n".join([*map(str, written), *filter(None, [usage_note(adapter), word_note(adapter)])])
        return io.NodeOutput(written[0].name, ui=host.say(cls.hidden.unique_id, report))


class LoadAdapter(io.ComfyNode):
    """An adapter from a LoRA file of any of the common namings, or from another node's LORA_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        file = io.Combo.Input("name", options=folders.loras(), tooltip="A LoRA in models/loras or output/loras.")
        name_tooltip = "An embedding in models/embeddings or output/embeddings."
        word = io.Combo.Input("name", options=folders.embeddings(), tooltip=name_tooltip)
        lora = io.LoraModel.Input("lora", tooltip="A LoRA from another node of the graph.")
        family_tooltip = "Which models it is for. auto finds out from its shapes, which tell it of stock models."
        families: dict[str, Any] = {"options": [AUTO, *KNOWN], "default": AUTO, "tooltip": family_tooltip}
        family = io.Combo.Input("family", **families)
        return io.Schema(
            node_id="FewShotLoadAdapter",
            display_name="Load Adapter",
            category=CATEGORY,
            description="Reads a LoRA for Sample Grid, Apply Adapter, or to train on from.",
            search_aliases=["load lora", "lora to adapter"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[
                        io.DynamicCombo.Option(FILE, [file, io.Combo.Input("family", optional=True, **families)]),
                        io.DynamicCombo.Option(SOCKET, [lora, family]),
                        io.DynamicCombo.Option(EMBEDDING, [word, family]),
                    ],
                    tooltip="Where it comes from: a LoRA file, a LORA_MODEL socket, or an embedding file.",
                ),
            ],
            outputs=[
                Adapter.Output(display_name="ADAPTER", tooltip="The LoRA, for this pack's nodes."),
                io.LoraModel.Output(display_name="LORA_MODEL", tooltip="The same for ComfyUI's own nodes."),
                io.String.Output(display_name="trigger", tooltip="Its trigger phrase, if the file tells it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, Any] | None = None) -> str:
        kind = KINDS.get((source or {}).get("source", ""))
        if kind is None or not isinstance(source["name"], str):
            return ""
        state = folders.listed_file(kind, source["name"]).stat()
        return f"{state.st_size}:{state.st_mtime_ns}"

    @classmethod
    def execute(cls, source: dict[str, Any] | None = None) -> io.NodeOutput:
        from ...models.adapters.formats import from_tensors, read_lora, to_kohya
        from ...models.adapters.token_files import read_embedding

        source, notes = source or {}, []
        family = None if source.get("family", AUTO) == AUTO else source["family"]
        if source.get("source") == FILE:
            adapter = read_lora(folders.listed_file("loras", source["name"]), family, notes=notes)
        elif source.get("source") == SOCKET:
            adapter = from_tensors(source["lora"], {}, family, notes=notes)
        elif source.get("source") == EMBEDDING:
            adapter = read_embedding(folders.listed_file("embeddings", source["name"]), family)
        else:
            known = f"'{FILE}', '{SOCKET}' or '{EMBEDDING}'"
            raise FewShotError(f"no such source {source.get('source')!r}: choose {known}")
        if adapter.noisy_from:
            log.warning("%s", usage_note(adapter))
            notes.append(usage_note(adapter))
        layers = f"{len(adapter.factors)} layers, " if adapter.factors else ""
        words = ", ".join(adapter.embeddings) or "none"
        report = f"for {family_named(adapter.family).title}: {layers}learned words: {words}"
        ui = host.say(cls.hidden.unique_id, "\n".join([report, *notes]))
        return io.NodeOutput(adapter, to_kohya(adapter), adapter.trigger, ui=ui)


class ApplyAdapter(io.ComfyNode):
    """An adapter on ComfyUI's own MODEL and CLIP."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
        return io.Schema(
            node_id="FewShotApplyAdapter",
            display_name="Apply Adapter",
            category=CATEGORY,
            description="Puts an adapter on MODEL and CLIP, text-encoder parts and learned words included. The "
            "trigger calls the subject; a learned word that is no single token of the text encoder is called by "
            "embedding: and its name, as embedding:<R>.",
            search_aliases=["apply lora", "lora loader", "use lora"],
            inputs=[
                Adapter.Input("adapter", tooltip="What a training node or Load Adapter gave."),
                io.Model.Input("model", tooltip="The model to put it on."),
                io.Clip.Input("clip", tooltip="The text encoder to put it on."),
                io.Float.Input("strength_model", tooltip="How strongly it changes the model.", **strength),
                io.Float.Input("strength_clip", tooltip="How strongly it changes the text encoder.", **strength),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the adapter on."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoder with the adapter on."),
            ],
        )

    @classmethod
    def execute(
        cls, adapter: Any, model: Any, clip: Any, strength_model: float = 1.0, strength_clip: float = 1.0
    ) -> io.NodeOutput:
        from ..comfy.adapter_fit import weight_names, with_adapter

        check_family(adapter, model)
        names = weight_names(adapter, model, clip)
        if adapter.noisy_from:
            model = with_timestep_range(model, adapter, names, strength_model)
        elif adapter.factors:
            model, clip = with_adapter(adapter, names, (model, clip), (strength_model, strength_clip))
        for word, vectors in adapter.embeddings.items():
            clip = with_word(clip, word, vectors)
        return io.NodeOutput(model, clip)


def check_family(adapter: Any, model: Any) -> None:
    """Refuses a MODEL of another family, to which the adapter's names would not fit or, worse, in part."""
    from ..comfy.hosted import family_name_of

    family = adapter.family if model is None else family_name_of(model)
    if family != adapter.family:
        known = family_named(family).title
        raise FewShotError(
            f"the adapter is for {family_named(adapter.family).title} and this MODEL is {known}: "
            "connect a model of the adapter's family"
        )


def with_word(clip: Any, word: str, embeddings: Mapping[str, Any]) -> Any:
    """A clone of a CLIP whose tokenizer finds `embedding:word` in memory, and every other one as before."""
    if clip is None:
        raise FewShotError(
            f"the adapter teaches the word '{word}', and the CLIP that is connected is empty: connect one, such as "
            "CheckpointLoaderSimple's CLIP"
        )
    clip = clip.clone()
    clip.tokenizer = copy.copy(clip.tokenizer)
    for key, vectors in embeddings.items():
        inner = copy.copy(getattr(clip.tokenizer, key, None))
        if inner is None:
            raise FewShotError(f"the adapter teaches {key} a word, but this CLIP has no {key}: it is of another family")
        if vectors.shape[-1] != inner.embedding_size:
            raise FewShotError(
                f"the adapter's word has {vectors.shape[-1]} numbers, this CLIP's words have {inner.embedding_size}: "
                "it is for another base model"
            )
        inner._try_get_embedding = _WordLookup(word, vectors, inner._try_get_embedding)
        setattr(clip.tokenizer, key, inner)
    return clip


class _WordLookup:
    """Looks a word up in memory before asking ComfyUI's tokenizer for a file; its answers have the tokenizer's form."""

    def __init__(self, word: str, vectors: Any, files: Any):
        self.word, self.vectors, self.files = word, vectors, files

    def __call__(self, name: str) -> tuple[Any, str, str]:
        first, *rest = name.split()
        bare = first.rstrip(",.;:")
        if bare != self.word:
            return self.files(name)
        return self.vectors, self.word, " ".join(part for part in (first[len(bare) :], *rest) if part)
