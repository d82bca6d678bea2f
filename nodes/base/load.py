"""Base models: what is trained on, beside ComfyUI's own MODEL, CLIP and VAE of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...models.hosted import files
from ...models.stable_diffusion.variants import FAMILIES
from ..comfy import folders, host
from ..comfy.host import io
from ..schema.sockets import Base

CATEGORY = "few-shot/base"
CHECKPOINT, FOLDER, POCKET, FILES = "checkpoint", "diffusers folder", "pocket", "model files"
NO_FILE = "none"
DTYPES = ["auto", "float32", "bfloat16", "float16"]


def weight_inputs() -> list[io.Input]:
    """How the weights are read; the same for every way to name a base."""
    return [
        io.Int.Input(
            "clip_skip",
            default=0,
            min=0,
            max=12,
            advanced=True,
            tooltip="Which layer of the text encoder prompts are read from, counted from the end as A1111 does: "
            "1 is the last, 2 the one before. 0 takes the family's own.",
        ),
        io.Combo.Input(
            "dtype",
            options=DTYPES,
            default="auto",
            advanced=True,
            tooltip="The type in which the frozen weights compute while training. auto: float32 on a CPU, bfloat16 "
            "where the GPU has it, else float16.",
        ),
    ]


def base_outputs(native: bool) -> list[io.Output]:
    base_only = [Base.Output(display_name="BASE", tooltip="Names the base model for every node of this pack.")]
    if not native:
        return base_only
    return base_only + [
        io.Model.Output(display_name="MODEL", tooltip="The same model for ComfyUI's own nodes."),
        io.Clip.Output(display_name="CLIP", tooltip="Its text encoder for ComfyUI's own nodes."),
        io.Vae.Output(display_name="VAE", tooltip="Its autoencoder for ComfyUI's own nodes."),
    ]


class LoadBase(io.ComfyNode):
    """A base model from a file or folder, for this pack and for ComfyUI's own nodes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        tooltip = "A full SD 1.x, SD 2.x or SDXL checkpoint in models/checkpoints, or a folder in models/diffusers."
        checkpoint = io.Combo.Input("name", options=folders.checkpoints(), tooltip=tooltip)
        folder = io.Combo.Input("name", options=folders.diffusers_folders(), tooltip=tooltip)
        options = [io.DynamicCombo.Option(CHECKPOINT, [checkpoint]), io.DynamicCombo.Option(FOLDER, [folder])]
        options.append(io.DynamicCombo.Option(FILES, model_file_inputs()))
        if folders.has_pocket():
            options.append(io.DynamicCombo.Option(POCKET, []))
        return io.Schema(
            node_id="FewShotLoadBase",
            display_name="Load Base Model",
            category=CATEGORY,
            description="Names the model that is trained on, and loads ComfyUI's MODEL, CLIP and VAE of it.",
            search_aliases=["checkpoint loader", "few-shot base", "dreambooth base", "diffusers loader"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=options,
                    tooltip="Where the base model lies: a checkpoint file; a folder in diffusers' layout; the files "
                    "that ComfyUI loads Z-Image, FLUX.2, Qwen-Image and others from; or the small pocket model that "
                    "comes with the project's source.",
                ),
                *weight_inputs(),
            ],
            outputs=base_outputs(native=True),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, source: dict[str, Any] | None = None, clip_skip: int = 0, dtype: str = "auto") -> io.NodeOutput:
        from ...models.open import base_from_path
        from ..comfy import hosted, native_models

        if (source or {}).get("source") == FILES:
            second = source.get("second_text_encoder", NO_FILE)
            encoders = [source["text_encoder"], *([] if second == NO_FILE else [second])]
            given = hosted.load_files(
                source["diffusion_model"], encoders, source.get("encoder_type", files.AUTO), source["vae"]
            )
            base, notes = based_on(*given, clip_skip, dtype)
            return io.NodeOutput(base, *given, ui=host.say(cls.hidden.unique_id, "\n".join(notes)))
        path = base_path(source or {})
        base = base_from_path(path, dtype=dtype, clip_skip=clip_skip)
        if path.is_dir():
            model, clip, vae = native_models.from_folder(path, base.family)
        else:
            model, clip, vae = native_models.from_checkpoint(path)
        if clip_skip:
            clip = clip.clone()
            clip.clip_layer(-clip_skip)
        return io.NodeOutput(base, model, clip, vae)


def model_file_inputs() -> list[io.Input]:
    """The files of a model that comes in parts, as ComfyUI's own loaders list them."""
    return [
        io.Combo.Input(
            "diffusion_model",
            options=folders.safe_names("diffusion_models"),
            tooltip="The denoiser, in models/diffusion_models.",
        ),
        io.Combo.Input(
            "text_encoder",
            options=folders.safe_names("text_encoders"),
            tooltip="Its text encoder, in models/text_encoders.",
        ),
        io.Combo.Input("vae", options=folders.safe_names("vae"), tooltip="Its autoencoder, in models/vae."),
        io.Combo.Input(
            "encoder_type",
            options=[files.AUTO, *files.encoder_types()],
            default=files.AUTO,
            optional=True,
            tooltip="What ComfyUI's Load CLIP calls type. auto is known for Z-Image and FLUX.2.",
        ),
        io.Combo.Input(
            "second_text_encoder",
            options=[NO_FILE, *folders.safe_names("text_encoders")],
            default=NO_FILE,
            optional=True,
            tooltip="Of models that read prompts with two, such as FLUX.1; in models/text_encoders too.",
        ),
    ]


def based_on(model: Any, clip: Any, vae: Any, clip_skip: int, dtype: str) -> tuple[Any, list[str]]:
    """A base that is trained in ComfyUI's own network, and what is said of it; it is as it was loaded."""
    from ..comfy import hosted

    if clip_skip or dtype != "auto":
        raise FewShotError(
            f"clip_skip is {clip_skip} and dtype is {dtype}: this model is trained as ComfyUI loaded it, so leave "
            "clip_skip at 0 and dtype at auto, and choose its type in the node that loads it"
        )
    return hosted.base_from(model, clip, vae)


def base_path(source: dict[str, Any]) -> Path:
    """The file or folder that a choice of Load Base Model names."""
    kind = source.get("source")
    if kind == CHECKPOINT:
        return folders.listed_file("checkpoints", source["name"])
    if kind == FOLDER:
        return folders.diffusers_folder(source["name"])
    if kind == POCKET and folders.has_pocket():
        return folders.POCKET
    raise FewShotError(f"no such source {kind!r} here: choose '{CHECKPOINT}' or '{FOLDER}'")


class BaseFromModel(io.ComfyNode):
    """A base model from what other nodes loaded and changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewShotBaseFromModel",
            display_name="Base from MODEL+CLIP+VAE",
            category=CATEGORY,
            description="Makes a base of a model that other nodes loaded, of any image family, quantised ones too.",
            search_aliases=["few-shot base", "model to base"],
            inputs=[
                io.Model.Input("model", tooltip="Any image model that ComfyUI loads, quantised ones too."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its autoencoder."),
                *weight_inputs(),
            ],
            outputs=base_outputs(native=False),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, clip_skip: int = 0, dtype: str = "auto") -> io.NodeOutput:
        from ...core.values import Loaded
        from ...models.open import base_from_loaded, base_from_path
        from ..comfy import adapter_fit, changes, hosted, parts, read_weights

        if model is not None and hosted.is_needed(model):
            base, notes = based_on(model, clip, vae, clip_skip, dtype)
            return io.NodeOutput(base, ui=host.say(cls.hidden.unique_id, "\n".join(notes)))
        parts.check_parts(model, clip, vae)
        changes.check_only_weights(model, clip, vae)
        adapter_fit.check_loras_fit(model, clip)
        prediction, zero_snr = parts.prediction_of(model)
        skip = parts.clip_skip_of(clip, model, clip_skip)
        of_model, of_clip, of_vae = read_weights.source_folders(model, clip, vae)
        if of_model is not None and of_model == of_clip == of_vae and not read_weights.is_patched(model, clip, vae):
            base = base_from_path(of_model, dtype=dtype, clip_skip=skip)
            if (base.prediction, base.zero_snr) == (prediction, zero_snr):
                return io.NodeOutput(base, ui=host.say(cls.hidden.unique_id, summary(base)))
        read_weights.log_patches(model, clip)
        loaded = Loaded(
            lambda: read_weights.state_dict(model, clip, vae),
            components=of_model,
            patched=read_weights.count_lora_weights(model, clip),
            elsewhere={"text": of_clip, "autoencoder": of_vae},
            prediction=prediction,
            zero_snr=zero_snr,
        )
        base = base_from_loaded(loaded, read_weights.content_key(model, clip, vae), dtype=dtype, clip_skip=skip)
        return io.NodeOutput(base, ui=host.say(cls.hidden.unique_id, summary(base)))


def summary(base: Any) -> str:
    """What a base from the graph is, of what its weights do not show."""
    ending = ", zero terminal SNR" if base.zero_snr else ""
    skip = base.clip_skip or FAMILIES[base.family].clip_skip
    patched = getattr(base.location, "patched", 0)
    lines = [f"{FAMILIES[base.family].title}: predicts {base.prediction}{ending}, clip skip {skip}"]
    return "\n".join([*lines, *([f"{patched} weights are changed by LoRAs, which are baked in"] if patched else [])])
