"""Original checkpoints' names (CompVis, OpenCLIP) in diffusers' and transformers' words.

The UNet's map works on parameters and on modules alike, so LoRA files in either naming are read through it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint, convert_open_clip_checkpoint
from torch import Tensor

from ..variants import TextEncoder

UNET = "model.diffusion_model."
VAE = "first_stage_model."

ROOTS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}


def unet_name(original: str, layers_per_block: int = 2) -> str | None:
    """ "input_blocks.1.1.proj_in" -> "down_blocks.0.attentions.0.proj_in"; None for what is no part of a UNet."""
    renamed = _swap_head(original, ROOTS)
    if renamed:
        return renamed
    side, _, rest = original.partition(".")
    if side not in ("input_blocks", "middle_block", "output_blocks"):
        return None
    number, _, rest = rest.partition(".")
    if not number.isdigit():
        return None
    if side == "middle_block":
        where, index = "mid_block", int(number)
        return _inside(where, index // 2, "1" if index == 1 else "0", rest)
    slot, _, rest = rest.partition(".")
    place = int(number) - (side == "input_blocks")
    block, layer = divmod(place, layers_per_block + 1)
    return _inside(f"{'down' if side == 'input_blocks' else 'up'}_blocks.{block}", layer, slot, rest)


def _inside(where: str, layer: int, slot: str, rest: str) -> str | None:
    """The name within a block: slot 0 is the resnet (or the downsampler), 1 the transformer, 1 or 2 the upsampler."""
    if rest == "op" or rest.startswith("op."):
        return f"{where}.downsamplers.0.conv{rest[2:]}"
    if slot != "0" and (rest == "conv" or rest.startswith("conv.")):
        return f"{where}.upsamplers.0.{rest}"
    if slot == "1":
        return f"{where}.attentions.{layer}.{rest}"
    inner = _swap_head(rest, RESNET)
    return f"{where}.resnets.{layer}.{inner}" if slot == "0" and inner else None


def _swap_head(name: str, heads: Mapping[str, str]) -> str | None:
    for old, new in heads.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return None


def unet_tensors(tensors: Mapping[str, Tensor], layers_per_block: int) -> dict[str, Tensor]:
    """The UNet's parameters in diffusers' names; what has no place there keeps its own name and is refused later."""
    inner = {key[len(UNET) :]: key for key in tensors if key.startswith(UNET)}
    return {unet_name(name, layers_per_block) or name: tensors[key] for name, key in inner.items()}


def vae_tensors(tensors: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """The autoencoder's parameters in diffusers' names, through diffusers' own converter."""
    inner = {key: tensors[key] for key in tensors if key.startswith(VAE)}
    blocks = {"down_block_types": [""] * levels, "up_block_types": [""] * levels}
    return convert_ldm_vae_checkpoint(inner, blocks)


_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def current_vae_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' own older attention names ("query", "proj_attn", ...) in today's."""
    renamed = {}
    for key, tensor in tensors.items():
        module, _, kind = key.rpartition(".")
        head, _, last = module.rpartition(".")
        if "mid_block.attentions." in key and last in _OLD_VAE_ATTENTION:
            key = f"{head}.{_OLD_VAE_ATTENTION[last]}.{kind}"
        renamed[key] = tensor
    return renamed


def text_prefixes(encoder: TextEncoder) -> tuple[str, ...]:
    """Where an encoder's parameters lie in an original checkpoint; SD 2.x has been saved in two ways."""
    if encoder.embedding == "clip_h":
        return encoder.original, "conditioner.embedders.0.model."
    return (encoder.original,)


def text_tensors(tensors: Mapping[str, Tensor], encoder: TextEncoder, unused_layers: int = 0) -> dict[str, Tensor]:
    """A text encoder's parameters in transformers' names, always with "text_model." in front of the inner ones."""
    prefix = next((p for p in text_prefixes(encoder) if any(key.startswith(p) for key in tensors)), encoder.original)
    inner = {key[len(prefix) :]: tensors[key] for key in tensors if key.startswith(prefix)}
    if not encoder.open_clip:
        return {with_text_model(name): tensor for name, tensor in inner.items()}
    layers = 1 + max(
        (int(name.split(".")[2]) for name in inner if name.startswith("transformer.resblocks.")), default=0
    )
    unused = tuple(f"transformer.resblocks.{layers - 1 - i}." for i in range(unused_layers))
    width = inner["positional_embedding"].shape[-1] if "positional_embedding" in inner else 0
    sizes = SimpleNamespace(hidden_size=width, projection_dim=width)  # older diffusers ask for the second
    model = SimpleNamespace(config=sizes)
    kept = {f"clip.{name}": tensor for name, tensor in inner.items() if not (unused and name.startswith(unused))}
    return convert_open_clip_checkpoint(model, kept, prefix="clip.")


_INNER = ("embeddings.", "encoder.", "final_layer_norm.")


def with_text_model(name: str) -> str:
    """transformers 5 leaves "text_model." out of CLIPTextModel's names; every file format has it."""
    return f"text_model.{name}" if name.startswith(_INNER) else name
