"""diffusers' and transformers' words in original checkpoints' names: the way back from `names`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ....core.errors import FewShotError
from ..variants import TextEncoder
from .names import RESNET, ROOTS, UNET, VAE

_UNET_BACK = {ours: theirs for theirs, ours in ROOTS.items()}
_RESNET_BACK = {ours: theirs for theirs, ours in RESNET.items()}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def original_unet_names(names: Collection[str], layers_per_block: int) -> dict[str, str]:
    """ "down_blocks.0.attentions.0.proj_in.weight" -> "model.diffusion_model.input_blocks.1.1.proj_in.weight", ...

    `names` are all parameters of one UNet: where an upsampler lies depends on whether its block attends.
    """
    attending = {
        match[2]
        for name in names
        if (match := _BLOCK.fullmatch(name)) and match[1] == "up" and match[3] == "attentions"
    }
    return {name: UNET + _unet_name(name, layers_per_block, attending) for name in names}


def _unet_name(name: str, layers: int, attending: Collection[str]) -> str:
    module, _, last = name.rpartition(".")
    if module in _UNET_BACK:
        return f"{_UNET_BACK[module]}.{last}"
    found = _MIDDLE.fullmatch(name)
    if found:
        slot = 1 if found[1] == "attentions" else 2 * int(found[2])
        return f"middle_block.{slot}.{_inner(found[1], found[3])}"
    found = _BLOCK.fullmatch(name)
    if not found:
        raise FewShotError(f"{name} has no name in original checkpoints: the UNet is of an unsupported variant")
    side, block, kind, number, rest = found.groups()
    first = int(block) * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{1 + first + layers}.0.op{rest.removeprefix('conv')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if block in attending else 1}.{rest}"
    place = f"input_blocks.{1 + first + int(number)}" if side == "down" else f"output_blocks.{first + int(number)}"
    return f"{place}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    module, _, last = rest.rpartition(".")
    return f"{_RESNET_BACK[module]}.{last}"


# -------------------------------------------------------------------------------------------------------- autoencoder

_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)\.(weight|bias)")


def original_vae(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The autoencoder's parameters in original names; attention's linear layers are 1x1 convolutions there."""
    found = {}
    for name, tensor in tensors.items():
        new = _vae_name(name, levels)
        attends = ".attn_1." in new and name.endswith("weight") and ".norm." not in new
        found[VAE + new] = tensor[:, :, None, None] if attends and tensor.dim() == 2 else tensor
    return found


def _vae_name(name: str, levels: int) -> str:
    found = _VAE_MIDDLE.fullmatch(name)
    if found:
        side, kind, number, inner, last = found.groups()
        if kind == "attentions":
            return f"{side}.mid.attn_1.{_VAE_ATTENTION[inner]}.{last}"
        return f"{side}.mid.block_{int(number) + 1}.{inner.replace('conv_shortcut', 'nin_shortcut')}.{last}"
    found = _VAE_BLOCK.fullmatch(name)
    if not found:
        return name.replace("conv_norm_out", "norm_out")
    side, way, block, kind, number, rest = found.groups()
    level = f"{side}.{way}.{block if way == 'down' else levels - 1 - int(block)}"
    if kind == "resnets":
        return f"{level}.block.{number}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    return f"{level}.{way}sample.{rest}"


# ------------------------------------------------------------------------------------------------------ text encoders

_OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
}
_OPEN_CLIP_TOP = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def original_text(tensors: Mapping[str, Tensor], encoder: TextEncoder, unused_layers: int = 0) -> dict[str, Tensor]:
    """A text encoder's parameters in original names: transformers' own for CLIP-L, OpenCLIP's for the others.

    OpenCLIP's files have layers that are never used (`unused_layers`); the last one is repeated in their place.
    """
    if not encoder.open_clip:
        return {encoder.original + name: tensor for name, tensor in tensors.items()}
    found: dict[str, Tensor] = {}
    layers = 1 + max(int(match[1]) for name in tensors if (match := _LAYER.fullmatch(name)))
    for name, tensor in tensors.items():
        match = _LAYER.fullmatch(name)
        if name in _OPEN_CLIP_TOP:
            found[_OPEN_CLIP_TOP[name]] = tensor
        elif name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif match and match[2] in _OPEN_CLIP:
            for layer in _copies(int(match[1]), layers, unused_layers):
                found[f"transformer.resblocks.{layer}.{_OPEN_CLIP[match[2]]}.{match[3]}"] = tensor
        elif match and match[2] == _QKV[0]:
            joined = torch.cat([tensors[f"text_model.encoder.layers.{match[1]}.{part}.{match[3]}"] for part in _QKV])
            for layer in _copies(int(match[1]), layers, unused_layers):
                found[f"transformer.resblocks.{layer}.attn.in_proj_{match[3]}"] = joined
        elif not (match and match[2] in _QKV):
            raise FewShotError(f"{name} of {encoder.component} has no name in original checkpoints")
    return {encoder.original + name: tensor for name, tensor in found.items()}


def _copies(layer: int, layers: int, unused: int) -> list[int]:
    return [layer, *range(layers, layers + unused)] if layer == layers - 1 else [layer]
