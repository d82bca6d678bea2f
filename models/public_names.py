"""Names that saved files and other programs hold: they never change, whatever the code calls these things."""

from __future__ import annotations

# The first word of an adapter's paths, which name checkpoints' tensors and seed the start of low-rank layers.
DENOISER_ROOT = "unet"
HOSTED_ROOT = "diffusion_model"
TEXT_ENCODER_ROOT = "text_encoder"
# kohya's metadata: the learning rates of a training, and whether the base is of Stable Diffusion 2.x.
DENOISER_RATE, TEXT_ENCODER_RATE = "ss_unet_lr", "ss_text_encoder_lr"
IS_V2 = "ss_v2"
# Widgets of ComfyUI's loaders that name a base in a saved graph, and its node that encodes a prompt.
BASE_WIDGETS = ("ckpt_name", "unet_name")
PROMPT_NODE = "CLIPTextEncode"
# The sets of layers that a training may choose.
PARAMETER_SETS = ("attention", "cross", "cross_kv", "self", "attention_ff", "feed_forward", "all", "none")


def in_denoiser(path: str) -> bool:
    """Whether an adapter's path is of the denoiser, whatever its family calls that, and not of a text encoder."""
    return not path.startswith(TEXT_ENCODER_ROOT)
