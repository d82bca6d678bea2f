"""Module names in LoRA files: kohya's flat names, diffusers', PEFT's and ComfyUI's, to and from an adapter's paths."""

from __future__ import annotations

import re

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
_TEXT = r"_text_model_(encoder_layers_\d+_(self_attn_(q|k|v|out)_proj|mlp_fc[12]|layer_norm[12])|final_layer_norm)"


def flat_name(path: str, family: Family) -> str:
    """kohya's name of a module: "unet.down_blocks.0…" -> "lora_unet_down_blocks_0…"."""
    root, _, name = path.partition(".")
    prefix = {names.component: names.prefix for names in family.text_encoders}.get(root, "lora_unet")
    return f"{prefix}_{name.replace('.', '_')}"


def known_name(flat: str, family: Family) -> bool:
    """Whether a flat name is one that readers of kohya's files know for this family."""
    if _UNET.fullmatch(flat):
        return True
    return any(re.fullmatch(re.escape(names.prefix) + _TEXT, flat) for names in family.text_encoders)


def dotted(flat: str) -> str:
    """ "down_blocks_0_attentions_0_proj_in" -> "down_blocks.0.attentions.0.proj_in"."""
    return _WORDS.sub(lambda word: word[0].replace("_", "\0"), flat).replace("_", ".").replace("\0", "_")


def path_of(name: str, layers_per_block: int = 2) -> str | None:
    """An adapter's path for a module's name in any of the namings; None when it is of none of them.

    `layers_per_block` is needed where original (CompVis) names are to be read: 2 in SD 1.x, 2.x and SDXL.
    """
    name = name.removeprefix("base_model.model.")
    for prefix, root in (
        ("lora_te1_", "text_encoder"),
        ("lora_te2_", "text_encoder_2"),
        ("lora_te_", "text_encoder"),
    ):
        if name.startswith(prefix):
            return f"{root}.{with_text_model(dotted(name[len(prefix) :]))}"
    for prefix in ("lora_unet_", "lycoris_"):
        if name.startswith(prefix):
            return _unet_path(dotted(name[len(prefix) :]), layers_per_block)
    return _dotted_path(name, layers_per_block)


def _dotted_path(name: str, layers_per_block: int) -> str | None:
    encoders = (
        ("text_encoders.clip_l.transformer.", "text_encoder"),
        ("text_encoders.clip_h.transformer.", "text_encoder"),
        ("text_encoders.clip_g.transformer.", "text_encoder_2"),
        ("text_encoder_2.", "text_encoder_2"),
        ("text_encoder.", "text_encoder"),
    )
    for prefix, root in encoders:
        if name.startswith(prefix):
            return f"{root}.{with_text_model(name[len(prefix) :])}"
    return _unet_path(name.removeprefix("diffusion_model.").removeprefix("unet."), layers_per_block)


_UNET_HEADS = ("down_blocks.", "up_blocks.", "mid_block.", "conv_in", "conv_out", "conv_norm_out")
_EMBEDDING_HEADS = ("time_embedding.", "add_embedding.")


def _unet_path(name: str, layers_per_block: int) -> str | None:
    name = re.sub(r"\.to_out$", ".to_out.0", name.replace(".processor.", "."))
    if name.startswith(_UNET_HEADS + _EMBEDDING_HEADS):
        return f"unet.{name}"
    original = unet_name(name, layers_per_block)
    return f"unet.{original}" if original else None
