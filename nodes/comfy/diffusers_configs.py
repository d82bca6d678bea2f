"""A diffusers folder's config.json files as ComfyUI's own model classes want them. No weights here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError

ATTENTION_BLOCKS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN_BLOCKS = ("DownBlock2D", "UpBlock2D")
VAE_LEVELS = 4  # ComfyUI's name map of autoencoders knows this many
GROUPS = 32  # of every GroupNorm that ComfyUI builds

# The parts of a UNet2DConditionModel that ComfyUI's UNet has no word for, with the value it always uses
UNET_MUST_BE: Mapping[str, Any] = {
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "resnet_time_scale_shift": "default",
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "class_embed_type": None,
    "encoder_hid_dim": None,
    "time_cond_proj_dim": None,
    "dual_cross_attention": False,
    "only_cross_attention": False,
}


def read_config(folder: Path, component: str, name: str = "config.json") -> dict[str, Any]:
    path = folder / component / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FewShotError(
            f"{path} cannot be read ({error.strerror}): is {folder} a complete diffusers model?"
        ) from None
    except ValueError as error:
        raise FewShotError(f"{path} is not JSON ({error}): download the model's folder again") from None


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's UNetModel arguments for a diffusers UNet2DConditionModel config."""
    for name, value in UNET_MUST_BE.items():
        if config.get(name, value) != value:
            raise FewShotError(f"the UNet's {name} is {config[name]!r}, but ComfyUI's UNet only has {value!r}")
    widths = config["block_out_channels"]
    if any(width % widths[0] for width in widths):
        raise FewShotError(f"the UNet's widths {widths} are not multiples of the first, which ComfyUI's UNet needs")
    levels = len(widths)
    layers = _per_level(config["layers_per_block"], levels)
    depths = _per_level(config.get("transformer_layers_per_block", 1), levels)
    attends = [_attends(kind) for kind in config["down_block_types"]]
    if [_attends(kind) for kind in config["up_block_types"]] != attends[::-1]:
        raise FewShotError("the UNet's up blocks do not mirror its down blocks, which ComfyUI's UNet needs")
    depths_used = [depth if attend else 0 for depth, attend in zip(depths, attends, strict=True)]
    sizes = config.get("addition_embed_type") == "text_time"
    return {
        "image_size": config.get("sample_size") or 32,
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "num_res_blocks": layers,
        "channel_mult": [width // widths[0] for width in widths],
        "transformer_depth": [d for d, n in zip(depths_used, layers, strict=True) for _ in range(n)],
        "transformer_depth_middle": depths[-1],
        "transformer_depth_output": [d for d, n in zip(depths_used, layers, strict=True) for _ in range(n + 1)],
        "context_dim": config["cross_attention_dim"],
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "num_classes": "sequential" if sizes else None,
        "adm_in_channels": config["projection_class_embeddings_input_dim"] if sizes else None,
        "use_spatial_transformer": True,
        "legacy": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        **_heads(config, widths),
    }


def _per_level(value: int | Sequence[int], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


def _attends(kind: str) -> bool:
    if kind not in ATTENTION_BLOCKS + PLAIN_BLOCKS:
        raise FewShotError(f"ComfyUI's UNet has no block {kind}; it knows {', '.join(ATTENTION_BLOCKS + PLAIN_BLOCKS)}")
    return kind in ATTENTION_BLOCKS


def _heads(config: Mapping[str, Any], widths: Sequence[int]) -> dict[str, int]:
    """diffusers' `attention_head_dim` is, in spite of its name, the number of heads of each level."""
    heads = _per_level(config.get("num_attention_heads") or config.get("attention_head_dim", 8), len(widths))
    if len(set(heads)) == 1:
        return {"num_heads": heads[0], "num_head_channels": -1}
    widths_of_head = {width // count for width, count in zip(widths, heads, strict=True)}
    if len(widths_of_head) == 1:
        return {"num_heads": -1, "num_head_channels": widths_of_head.pop()}
    raise FewShotError(f"the UNet's heads {heads} are neither one number nor of one width, which ComfyUI's UNet needs")


def sampling_settings(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's noise schedule for a diffusers scheduler config."""
    if scheduler.get("beta_schedule") != "scaled_linear" or scheduler.get("trained_betas") is not None:
        raise FewShotError(
            f"the scheduler's beta_schedule is {scheduler.get('beta_schedule')!r}; Stable Diffusion has 'scaled_linear'"
        )
    return {
        "beta_schedule": "linear",  # ComfyUI's word for a line between the square roots
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "zsnr": bool(scheduler.get("rescale_betas_zero_snr")),
    }


def vae_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """ComfyUI's AutoencoderKL arguments for a diffusers AutoencoderKL config."""
    widths = config["block_out_channels"]
    if len(widths) != VAE_LEVELS:
        raise FewShotError(f"the autoencoder has {len(widths)} levels; ComfyUI's names are known for {VAE_LEVELS}")
    if any(width % widths[0] or width % GROUPS for width in widths):
        raise FewShotError(f"the autoencoder's widths {widths} are no multiples of {widths[0]} and of {GROUPS}")
    if config.get("shift_factor") or config.get("latents_mean") or not config.get("use_quant_conv", True):
        raise FewShotError("the autoencoder shifts its latents or has no quant_conv: it is none of Stable Diffusion's")
    ddconfig = {
        "double_z": True,
        "z_channels": config["latent_channels"],
        "resolution": 256,
        "in_channels": config["in_channels"],
        "out_ch": config["out_channels"],
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    return {"params": {"ddconfig": ddconfig, "embed_dim": config["latent_channels"]}}
