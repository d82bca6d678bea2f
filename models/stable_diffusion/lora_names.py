"""Module names in LoRA files: kohya's flat names, diffusers', PEFT's and ComfyUI's, to and from an adapter's paths."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .files.names import unet_name, with_text_model
from .variants import Family

# Words of module names that hold an underscore of their own; elsewhere in a flat name an underscore is a dot.
_COMPOUND = (
    "down_blocks up_blocks mid_block transformer_blocks proj_in proj_out to_q to_k to_v to_out "
    "time_emb_proj conv_shortcut conv_in conv_out conv_norm_out time_embedding add_embedding linear_1 linear_2 "
    "input_blocks output_blocks middle_block in_layers out_layers emb_layers skip_connection time_embed label_emb "
    "text_model self_attn q_proj k_proj v_proj out_proj layer_norm1 layer_norm2 final_layer_norm token_embedding "
    "position_embedding text_projection"
).split()
_WORDS = re.compile("(?<![a-z0-9])(" + "|".join(sorted(_COMPOUND, key=len, reverse=True)) + ")(?![a-z0-9])")

_BLOCK = (
    r"(proj_in|proj_out|norm|transformer_blocks_\d+_"
    r"(norm[123]|attn[12]_to_(q|k|v|out_0)|ff_net_(0_proj|2)))"
)
_RESNET = r"(norm[12]|conv[12]|time_emb_proj|conv_shortcut)"
_UNET = re.compile(
    rf"lora_unet_((down_blocks_\d+|up_blocks_\d+|mid_block)_(attentions_\d+_{_BLOCK}|resnets_\d+_{_RESNET})"
    r"|down_blocks_\d+_downsamplers_0_conv|up_blocks_\d+_upsamplers_0_conv"
    r"|conv_in|conv_norm_out|conv_out|(time|add)_embedding_linear_[12])"
)
_LAYER = r"encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12])"
# What kohya's names say of text encoders in ComfyUI; the rest has only its own names there.
_TEXT_LAYER = re.compile(f"text_model_{_LAYER}")
_TEXT = re.compile(
    rf"text_model_({_LAYER}|encoder_layers_\d+_layer_norm[12]|final_layer_norm|embeddings_(token|position)_embedding)"
    "|text_projection"
)


def flat_name(path: str, family: Family) -> str:
    """kohya's name of a module: "unet.down_blocks.0…" -> "lora_unet_down_blocks_0…".

    ComfyUI's own, "text_encoders.clip_l.transformer.text_model…", for a text encoder's norms, embeddings, projection.
    """
    root, _, name = path.partition(".")
    encoder = {names.component: names for names in family.text_encoders}.get(root)
    flat = name.replace(".", "_")
    if encoder is None:
        return f"lora_unet_{flat}"
    own = _TEXT.fullmatch(flat) and not _TEXT_LAYER.fullmatch(flat)
    return f"text_encoders.{encoder.embedding}.transformer.{name}" if own else f"{encoder.prefix}_{flat}"


def known_name(name: str, family: Family) -> bool:
    """Whether a module's name is one that ComfyUI knows for this family; readers of kohya's files know flat ones."""
    if _UNET.fullmatch(name):
        return True
    return any(
        name.startswith(f"{names.prefix}_")
        and _TEXT_LAYER.fullmatch(name[len(names.prefix) + 1 :])
        or name.startswith(start := f"text_encoders.{names.embedding}.transformer.")
        and _TEXT.fullmatch(name[len(start) :].replace(".", "_"))
        for names in family.text_encoders
    )


def dotted(flat: str) -> str:
    """ "down_blocks_0_attentions_0_proj_in" -> "down_blocks.0.attentions.0.proj_in"."""
    return _WORDS.sub(lambda word: word[0].replace("_", "\0"), flat).replace("_", ".").replace("\0", "_")


_ENCODERS = (
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("text_encoders.clip_l.transformer.", "text_encoder"),
    ("text_encoders.clip_h.transformer.", "text_encoder"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2"),
    ("text_encoder_2.", "text_encoder_2"),
    ("text_encoder.", "text_encoder"),
)


def path_of(name: str, layers_per_block: int = 2) -> str | None:
    """An adapter's path for a module's name in any of the namings; None when it is of none of them.

    `layers_per_block` is needed where original (CompVis) names are to be read: 2 in SD 1.x, 2.x and SDXL.
    """
    name = name.replace("base_model.model.", "", 1)
    for prefix, root in _ENCODERS:
        if name.startswith(prefix):
            inner = name[len(prefix) :]
            return _text_path(root, dotted(inner) if prefix.startswith("lora_") else inner)
    for prefix in ("lora_unet_", "lycoris_"):
        if name.startswith(prefix):
            return _unet_path(dotted(name[len(prefix) :]), layers_per_block)
    if name.startswith("text_model."):
        return _text_path("text_encoder", name)
    return _unet_path(name.removeprefix("diffusion_model.").removeprefix("unet."), layers_per_block)


def _text_path(root: str, name: str) -> str | None:
    name = with_text_model(name)
    return f"{root}.{name}" if _TEXT.fullmatch(name.replace(".", "_")) else None


def _unet_path(name: str, layers_per_block: int) -> str | None:
    name = re.sub(r"\.to_out$", ".to_out.0", name.replace(".processor.", "."))
    name = unet_name(name, layers_per_block) or name
    return f"unet.{name}" if _UNET.fullmatch(f"lora_unet_{name.replace('.', '_')}") else None


# In order: what tells LoRAs of other models by their names, and what these are called.
_OTHERS = (
    (r"lora_prior_", "Stable Cascade"),
    (r"motion_modules|temporal_transformer", "AnimateDiff"),
    (r"to_[kv]_ip|ip_adapter", "IP-Adapter"),
    (r"controlnet|control_model|input_hint_block", "a ControlNet"),
    (r"double_stream_blocks|single_stream_blocks", "HiDream"),
    (r"double_blocks|single_blocks|single_transformer_blocks", "Flux, or a model built like it"),
    (r"joint_blocks", "Stable Diffusion 3"),
    (r"double_layers|joint_transformer_blocks", "AuraFlow"),
    (r"transformer_blocks[._]\d+[._](img|txt)_(mlp|mod)", "Qwen-Image"),
    (r"(context|noise)_refiner|cap_embedder|layers[._]\d+[._](attention|feed_f|adaLN)", "Lumina or Z-Image"),
    (r"(^|[._])blocks[._]\d+[._](self_attn|cross_attn|ffn|adaln)", "Wan, Cosmos or a model built like them"),
    (r"transformer_blocks[._]\d+[._]attn[._]", "Stable Diffusion 3, Flux or Qwen-Image"),
    (r"SelfAttention|DenseReluDense", "a T5 text encoder"),
    (r"^((lora_)?transformer|lycoris|diffusion_model|lora_unet)[._]transformer_blocks", "PixArt or LTX-Video"),
)


def other_model(names: Iterable[str]) -> str | None:
    """What a LoRA is for that has these names, where they are of another model that is known by name."""
    names = list(names)
    return next((title for pattern, title in _OTHERS if any(re.search(pattern, name) for name in names)), None)
