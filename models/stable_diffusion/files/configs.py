"""A model's diffusers configs from a stock config and the shapes of its tensors.

A stock config says what shapes do not: activations, the number of heads, norm groups, the scaling factor. Everything
else is read from the tensors, so that shallower, narrower or wider models of a family load as well.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ....core.errors import FewShotError
from .names import UNET, VAE

_TRANSFORMER = re.compile(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.(?:1\.)?transformer_blocks\.(\d+)\.")
LATENT_SCALE = 0.18215
"""the autoencoder's scaling factor where its config does not say one: older configs of SD 1.x do not"""
HEAD_WIDTH = 64
"""channels of an attention head where a family fixes the head's width, not the number of heads"""


def read_config(folder: Path, component: str) -> dict[str, Any]:
    """The JSON config of a component of a folder in diffusers' layout."""
    name = "scheduler_config.json" if component == "scheduler" else "config.json"
    path = folder / component / name
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FewShotError(f"{path} is missing: the model folder is incomplete; download it again") from None
    except ValueError as error:
        raise FewShotError(f"{path} is not valid JSON ({error}); download the file again") from error


def unet_config(tensors: Mapping[str, Tensor], stock: Mapping[str, Any]) -> dict[str, Any]:
    """The UNet's config from an original checkpoint's tensors."""
    depth = _transformer_depths(tensors)
    levels = _levels(tensors)
    layers = {len(level) for level in levels}
    if len(layers) != 1:
        raise FewShotError(f"the UNet has {sorted(layers)} resnets in its levels; only an equal number is supported")
    per_level = [{depth.get(("input_blocks", number), 0) for number in level} for level in levels]
    middle = depth.get(("middle_block", 1), 0)
    if any(len(depths) != 1 for depths in per_level) or not middle:
        raise FewShotError("the UNet's transformer depths differ within a level: distilled variants are not supported")
    depths = [next(iter(found)) for found in per_level]
    widths = [tensors[f"{UNET}input_blocks.{level[0]}.0.out_layers.3.weight"].shape[0] for level in levels]
    first = next(key for key in tensors if key.startswith(UNET) and key.endswith("attn2.to_k.weight"))
    conv_in = tensors[f"{UNET}input_blocks.0.0.weight"]
    config = {
        **stock,
        "in_channels": conv_in.shape[1],
        "out_channels": tensors[f"{UNET}out.2.weight"].shape[0],
        "block_out_channels": widths,
        "layers_per_block": layers.pop(),
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depths)],
        "transformer_layers_per_block": [d or 1 for d in depths[:-1]] + [middle],
        "cross_attention_dim": tensors[first].shape[1],
    }
    if not isinstance(stock["attention_head_dim"], int):
        config["attention_head_dim"] = [width // HEAD_WIDTH for width in widths]
    if f"{UNET}label_emb.0.0.weight" in tensors:
        config["projection_class_embeddings_input_dim"] = tensors[f"{UNET}label_emb.0.0.weight"].shape[1]
    return config


def _transformer_depths(tensors: Mapping[str, Tensor]) -> dict[tuple[str, int], int]:
    depth: dict[tuple[str, int], int] = defaultdict(int)
    for key in tensors:
        found = _TRANSFORMER.match(key, len(UNET)) if key.startswith(UNET) else None
        if found:
            block = (found[1], int(found[2]))
            depth[block] = max(depth[block], int(found[3]) + 1)
    return depth


def _levels(tensors: Mapping[str, Tensor]) -> list[list[int]]:
    """The numbers of the input blocks that are resnets, grouped by resolution."""
    levels: list[list[int]] = [[]]
    number = 1
    while True:
        if f"{UNET}input_blocks.{number}.0.op.weight" in tensors:
            levels.append([])
        elif f"{UNET}input_blocks.{number}.0.in_layers.2.weight" in tensors:
            levels[-1].append(number)
        else:
            return levels
        number += 1


def vae_config(tensors: Mapping[str, Tensor], stock: Mapping[str, Any]) -> dict[str, Any]:
    """The autoencoder's config from an original checkpoint's tensors."""
    widths, layers = [], 0
    while f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight" in tensors:
        widths.append(tensors[f"{VAE}encoder.down.{len(widths)}.block.0.conv1.weight"].shape[0])
    while f"{VAE}encoder.down.0.block.{layers}.conv1.weight" in tensors:
        layers += 1
    if not widths:
        raise FewShotError("the checkpoint holds no autoencoder (VAE): use a full checkpoint, or connect its VAE")
    return {
        **stock,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": tensors[f"{VAE}decoder.conv_in.weight"].shape[1],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
    }


def text_config(tensors: Mapping[str, Tensor], stock: Mapping[str, Any]) -> dict[str, Any]:
    """A text encoder's config from its tensors in transformers' names."""
    try:
        tokens = tensors["text_model.embeddings.token_embedding.weight"]
        positions = tensors["text_model.embeddings.position_embedding.weight"]
        inner = tensors["text_model.encoder.layers.0.mlp.fc1.weight"]
    except KeyError as error:
        raise FewShotError(
            f"the checkpoint holds no complete text encoder ({error.args[0]} is missing): "
            "use a full checkpoint, or connect its CLIP"
        ) from None
    layers = [int(key.split(".")[3]) for key in tensors if key.startswith("text_model.encoder.layers.")]
    width = tokens.shape[1]
    heads = stock["num_attention_heads"] if width == stock["hidden_size"] else max(1, width // HEAD_WIDTH)
    projection = tensors.get("text_projection.weight")
    return {
        **stock,
        "vocab_size": tokens.shape[0],
        "hidden_size": width,
        "max_position_embeddings": positions.shape[0],
        "intermediate_size": inner.shape[0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": heads,
        "projection_dim": stock["projection_dim"] if projection is None else projection.shape[0],
    }
