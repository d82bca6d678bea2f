"""Small checkpoints in the original names of Stable Diffusion, with random weights, written from their definition.

Widths and depths are free, names are those of CompVis (UNet, autoencoder), transformers and OpenCLIP (text encoders).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor


@dataclass(frozen=True)
class UNetShape:
    channels: int = 320
    multipliers: tuple[int, ...] = (1, 1)
    layers: int = 1
    depths: tuple[int, ...] = (1, 0)
    middle: int = 1
    context: int = 768
    linear: bool = False
    added: int | None = None
    latent: int = 4


@dataclass(frozen=True)
class TextShape:
    width: int = 768
    layers: int = 2
    inner: int = 3072
    vocabulary: int = 49408
    length: int = 77


@dataclass(frozen=True)
class VaeShape:
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    layers: int = 2
    latent: int = 4


@dataclass
class Builder:
    """Collects named tensors: weights with a variance of 1 / fan-in, norms near 1, small biases."""

    seed: int
    dtype: torch.dtype = torch.float32
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self):
        self._generator = torch.Generator().manual_seed(self.seed)

    def normal(self, name: str, *shape: int, scale: float) -> None:
        self.tensors[name] = (torch.randn(shape, generator=self._generator) * scale).to(self.dtype)

    def layer(self, name: str, out: int, *fan: int, bias: bool = True) -> None:
        self.normal(f"{name}.weight", out, *fan, scale=torch.Size(fan).numel() ** -0.5)
        if bias:
            self.normal(f"{name}.bias", out, scale=0.02)

    def norm(self, name: str, width: int) -> None:
        self.normal(f"{name}.weight", width, scale=0.05)
        self.tensors[f"{name}.weight"] += 1
        self.normal(f"{name}.bias", width, scale=0.02)


class Shapes(Builder):
    """The names and shapes alone."""

    def normal(self, name: str, *shape: int, scale: float) -> None:
        self.tensors[name] = torch.empty(shape, dtype=self.dtype, device="meta")


# ------------------------------------------------------------------------------------------------------------ UNet


def add_unet(to: Builder, shape: UNetShape, prefix: str = "model.diffusion_model.") -> None:
    time = shape.channels * 4
    to.layer(f"{prefix}time_embed.0", time, shape.channels)
    to.layer(f"{prefix}time_embed.2", time, time)
    if shape.added:
        to.layer(f"{prefix}label_emb.0.0", time, shape.added)
        to.layer(f"{prefix}label_emb.0.2", time, time)
    to.layer(f"{prefix}input_blocks.0.0", shape.channels, shape.latent, 3, 3)
    widths = [shape.channels * multiplier for multiplier in shape.multipliers]
    skips, width, number = [shape.channels], shape.channels, 1
    for level, out in enumerate(widths):
        for _ in range(shape.layers):
            _resnet(to, f"{prefix}input_blocks.{number}.0", width, out, time)
            _transformer(to, f"{prefix}input_blocks.{number}.1", out, shape.depths[level], shape)
            width, number = out, number + 1
            skips.append(out)
        if level < len(widths) - 1:
            to.layer(f"{prefix}input_blocks.{number}.0.op", out, out, 3, 3)
            number += 1
            skips.append(out)
    _resnet(to, f"{prefix}middle_block.0", width, width, time)
    _transformer(to, f"{prefix}middle_block.1", width, shape.middle, shape)
    _resnet(to, f"{prefix}middle_block.2", width, width, time)
    number = 0
    for level in reversed(range(len(widths))):
        for layer in range(shape.layers + 1):
            _resnet(to, f"{prefix}output_blocks.{number}.0", width + skips.pop(), widths[level], time)
            width = widths[level]
            _transformer(to, f"{prefix}output_blocks.{number}.1", width, shape.depths[level], shape)
            if level and layer == shape.layers:
                slot = 2 if shape.depths[level] else 1
                to.layer(f"{prefix}output_blocks.{number}.{slot}.conv", width, width, 3, 3)
            number += 1
    to.norm(f"{prefix}out.0", width)
    to.layer(f"{prefix}out.2", shape.latent, width, 3, 3)


def _resnet(to: Builder, name: str, width: int, out: int, time: int) -> None:
    to.norm(f"{name}.in_layers.0", width)
    to.layer(f"{name}.in_layers.2", out, width, 3, 3)
    to.layer(f"{name}.emb_layers.1", out, time)
    to.norm(f"{name}.out_layers.0", out)
    to.layer(f"{name}.out_layers.3", out, out, 3, 3)
    if width != out:
        to.layer(f"{name}.skip_connection", out, width, 1, 1)


def _transformer(to: Builder, name: str, width: int, depth: int, shape: UNetShape) -> None:
    if not depth:
        return
    kernel = () if shape.linear else (1, 1)
    to.norm(f"{name}.norm", width)
    to.layer(f"{name}.proj_in", width, width, *kernel)
    to.layer(f"{name}.proj_out", width, width, *kernel)
    for block in (f"{name}.transformer_blocks.{i}" for i in range(depth)):
        for attention, source in (("attn1", width), ("attn2", shape.context)):
            to.layer(f"{block}.{attention}.to_q", width, width, bias=False)
            to.layer(f"{block}.{attention}.to_k", width, source, bias=False)
            to.layer(f"{block}.{attention}.to_v", width, source, bias=False)
            to.layer(f"{block}.{attention}.to_out.0", width, width)
        to.layer(f"{block}.ff.net.0.proj", 8 * width, width)
        to.layer(f"{block}.ff.net.2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            to.norm(f"{block}.{norm}", width)


# ----------------------------------------------------------------------------------------------------- autoencoder


def add_vae(to: Builder, shape: VaeShape, prefix: str = "first_stage_model.") -> None:
    widths = [shape.channels * multiplier for multiplier in shape.multipliers]
    to.layer(f"{prefix}encoder.conv_in", widths[0], 3, 3, 3)
    width = widths[0]
    for level, out in enumerate(widths):
        for layer in range(shape.layers):
            _vae_resnet(to, f"{prefix}encoder.down.{level}.block.{layer}", width, out)
            width = out
        if level < len(widths) - 1:
            to.layer(f"{prefix}encoder.down.{level}.downsample.conv", out, out, 3, 3)
    _vae_middle(to, f"{prefix}encoder", width)
    to.layer(f"{prefix}encoder.conv_out", 2 * shape.latent, width, 3, 3)
    to.layer(f"{prefix}quant_conv", 2 * shape.latent, 2 * shape.latent, 1, 1)
    to.layer(f"{prefix}post_quant_conv", shape.latent, shape.latent, 1, 1)
    to.layer(f"{prefix}decoder.conv_in", width, shape.latent, 3, 3)
    _vae_middle(to, f"{prefix}decoder", width, out=widths[0])
    for level in reversed(range(len(widths))):
        for layer in range(shape.layers + 1):
            _vae_resnet(to, f"{prefix}decoder.up.{level}.block.{layer}", width, widths[level])
            width = widths[level]
        if level:
            to.layer(f"{prefix}decoder.up.{level}.upsample.conv", width, width, 3, 3)
    to.layer(f"{prefix}decoder.conv_out", 3, width, 3, 3)


def _vae_resnet(to: Builder, name: str, width: int, out: int) -> None:
    to.norm(f"{name}.norm1", width)
    to.layer(f"{name}.conv1", out, width, 3, 3)
    to.norm(f"{name}.norm2", out)
    to.layer(f"{name}.conv2", out, out, 3, 3)
    if width != out:
        to.layer(f"{name}.nin_shortcut", out, width, 1, 1)


def _vae_middle(to: Builder, name: str, width: int, out: int | None = None) -> None:
    for block in ("block_1", "block_2"):
        _vae_resnet(to, f"{name}.mid.{block}", width, width)
    to.norm(f"{name}.mid.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        to.layer(f"{name}.mid.attn_1.{part}", width, width, 1, 1)
    to.norm(f"{name}.norm_out", out or width)


# --------------------------------------------------------------------------------------------------- text encoders


def add_clip(to: Builder, shape: TextShape, prefix: str) -> None:
    """A text encoder in transformers' names."""
    inner = f"{prefix}text_model."
    to.normal(f"{inner}embeddings.token_embedding.weight", shape.vocabulary, shape.width, scale=0.3)
    to.normal(f"{inner}embeddings.position_embedding.weight", shape.length, shape.width, scale=0.1)
    to.tensors[f"{inner}embeddings.position_ids"] = torch.arange(shape.length).expand(1, -1).clone()
    for block in (f"{inner}encoder.layers.{i}" for i in range(shape.layers)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            to.layer(f"{block}.self_attn.{part}", shape.width, shape.width)
        to.layer(f"{block}.mlp.fc1", shape.inner, shape.width)
        to.layer(f"{block}.mlp.fc2", shape.width, shape.inner)
        to.norm(f"{block}.layer_norm1", shape.width)
        to.norm(f"{block}.layer_norm2", shape.width)
    to.norm(f"{inner}final_layer_norm", shape.width)


def add_open_clip(to: Builder, shape: TextShape, prefix: str) -> None:
    """A text encoder in OpenCLIP's names."""
    to.normal(f"{prefix}token_embedding.weight", shape.vocabulary, shape.width, scale=0.3)
    to.normal(f"{prefix}positional_embedding", shape.length, shape.width, scale=0.1)
    for block in (f"{prefix}transformer.resblocks.{i}" for i in range(shape.layers)):
        to.normal(f"{block}.attn.in_proj_weight", 3 * shape.width, shape.width, scale=shape.width**-0.5)
        to.normal(f"{block}.attn.in_proj_bias", 3 * shape.width, scale=0.02)
        to.layer(f"{block}.attn.out_proj", shape.width, shape.width)
        to.layer(f"{block}.mlp.c_fc", shape.inner, shape.width)
        to.layer(f"{block}.mlp.c_proj", shape.width, shape.inner)
        to.norm(f"{block}.ln_1", shape.width)
        to.norm(f"{block}.ln_2", shape.width)
    to.norm(f"{prefix}ln_final", shape.width)
    to.normal(f"{prefix}text_projection", shape.width, shape.width, scale=shape.width**-0.5)
    to.tensors[f"{prefix}logit_scale"] = torch.tensor(4.6)


# ----------------------------------------------------------------------------------------------------- checkpoints

TINY_TEXT = TextShape(width=64, layers=3, inner=128, vocabulary=2048, length=32)
TINY_VAE = VaeShape(channels=32, multipliers=(1, 1), layers=1)


def sd1(
    unet: UNetShape | None = None, text: TextShape = TINY_TEXT, vae: VaeShape = TINY_VAE, dtype=torch.float32
) -> dict[str, Tensor]:
    to = Builder(seed=1, dtype=dtype)
    add_unet(to, unet or UNetShape(channels=32, context=text.width))
    add_clip(to, text, "cond_stage_model.transformer.")
    add_vae(to, vae)
    return to.tensors


def sd2(
    unet: UNetShape | None = None, text: TextShape = TINY_TEXT, vae: VaeShape = TINY_VAE, dtype=torch.float32
) -> dict[str, Tensor]:
    to = Builder(seed=2, dtype=dtype)
    add_unet(to, unet or UNetShape(channels=64, multipliers=(1, 2), context=text.width, linear=True))
    add_open_clip(to, text, "cond_stage_model.model.")
    add_vae(to, vae)
    return to.tensors


def sdxl(
    unet: UNetShape | None = None,
    texts: tuple[TextShape, TextShape] = (TINY_TEXT, TINY_TEXT),
    vae: VaeShape = TINY_VAE,
    dtype=torch.float32,
) -> dict[str, Tensor]:
    to = Builder(seed=3, dtype=dtype)
    context, added = texts[0].width + texts[1].width, texts[1].width + 6 * 256
    small = UNetShape(channels=64, depths=(0, 2), middle=2, context=context, linear=True, added=added)
    add_unet(to, unet or small)
    add_clip(to, texts[0], "conditioner.embedders.0.transformer.")
    add_open_clip(to, texts[1], "conditioner.embedders.1.model.")
    add_vae(to, vae)
    return to.tensors


def save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file({key: value.contiguous() for key, value in tensors.items()}, path, metadata)
    return path


def save_folder(model: Any, folder: Path, **scheduler: Any) -> Path:
    """Save opened networks with diffusers' and transformers' own writers; `scheduler` goes into its config."""
    model.unet.save_pretrained(folder / "unet", max_shard_size="100KB")
    model.vae.save_pretrained(folder / "vae", variant="fp16")
    for names, encoder, tokenizer in zip(
        model.family.text_encoders, model.text_encoders, model.tokenizers, strict=True
    ):
        encoder.save_pretrained(folder / names.component)
        tokenizer.save_pretrained(folder / names.tokenizer)
    (folder / "scheduler").mkdir()
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012} | scheduler
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    return folder
