"""Activation memory of the networks, by formula from their configurations: in a training step, and in sampling.

The formulas follow from what torch stores when each operation runs by itself: attention is fused, a frozen linear layer
stores nothing, a frozen convolution its input, and an adapter (in fp32) an fp32 copy of its input. Workspace of kernels
and rounding by the allocator are not included.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..contract import ActivationMemory

RESNET = 3  # values stored a cell and channel (in and out) in a residual block: input of norm, activation, convolution
ENTRY = 3  # and in a transformer, a cell and channel: the norm's input and both projections'
EVERYWHERE = ("self", "cross", "feed_forward")
# Bytes stored a token and channel in a frozen transformer block: inputs of three norms; query, key, value and output of
# attention; its query and output in cross-attention; both halves of the feed-forward layer and the activated one, each
# of four widths.
BLOCK = {"half": 42, "full": 84}
# Bytes more with adapters: their inputs in fp32, in half precision once for each of query, key and value.
ADAPTED = {
    "half": {"self": 16, "cross": 8, "feed_forward": 20},
    "full": {"self": 8, "cross": 8, "feed_forward": 20},
}
# Temporary bytes where an adapter's output, in fp32, is added to the feed-forward layer's first half.
ADDING = {"half": 40, "full": 0}
# Values a token and channel that a transformer block holds at once without a backward pass, at its feed-forward layer;
# there with adapters, whose sum is fp32.
INFERENCE, INFERENCE_ADAPTED = 23, {"half": 49, "full": 31}
# Bytes stored a token and channel in a text encoder's layer beside its inner half: inputs of two norms, attention's
# four; and with adapters in its attention.
TEXT = {"half": 14, "full": 28}
TEXT_ADAPTED = {"half": 16, "full": 4}
QUICK = "quick_gelu"  # stores two values of each inner channel, other activations one


@dataclass(frozen=True)
class UNetBlock:
    """One residual block and the transformer behind it, in the order in which a UNet runs them.

    Args:
        cells: latent cells (height x width) at this level.
        depth: transformer blocks; 0 for none.
        skipped: values of skip connections that are held meanwhile.
    """

    in_channels: int
    out_channels: int
    cells: int
    depth: int
    skipped: int


def unet_blocks(config: Mapping[str, Any], height: int, width: int) -> list[UNetBlock]:
    """The blocks of a UNet2DConditionModel with this configuration, for latents (height, width)."""
    widths = config["block_out_channels"]
    layers = _for_each_level(config["layers_per_block"], len(widths))
    depths = _for_each_level(config.get("transformer_layers_per_block", 1), len(widths))
    downs, ups = config["down_block_types"], config["up_block_types"][::-1]
    cells = [(height >> level) * (width >> level) for level in range(len(widths))]
    blocks, channels, skips = [], widths[0], [(widths[0], cells[0])]
    for level, out_channels in enumerate(widths):
        for _ in range(layers[level]):
            depth = depths[level] if "Attn" in downs[level] else 0
            blocks.append(UNetBlock(channels, out_channels, cells[level], depth, _values(skips)))
            channels = out_channels
            skips.append((out_channels, cells[level]))
        if level + 1 < len(widths):
            skips.append((out_channels, cells[level + 1]))
    for depth in (depths[-1], 0):
        blocks.append(UNetBlock(channels, channels, cells[-1], depth, _values(skips)))
    for level, out_channels in reversed(list(enumerate(widths))):
        skipped = _values(skips)  # a block holds the skips that it uses until its end
        for _ in range(layers[level] + 1):
            depth = depths[level] if "Attn" in ups[level] else 0
            blocks.append(UNetBlock(channels + skips.pop()[0], out_channels, cells[level], depth, skipped))
            channels = out_channels
    return blocks


def training_activations(
    config: Mapping[str, Any], height: int, width: int, half: bool, adapters: Collection[str] = EVERYWHERE
) -> ActivationMemory:
    """What a forward pass stores for the backward pass of one image with latents (height, width).

    With gradient checkpointing only the blocks' inputs are stored, and one block at a time is computed again.

    Args:
        half: the frozen weights are in half precision.
        adapters: which of `EVERYWHERE` are trained.
    """
    kind, itemsize = ("half", 2) if half else ("full", 4)
    block = BLOCK[kind] + sum(ADAPTED[kind][part] for part in EVERYWHERE if part in adapters)
    adding = ADDING[kind] if "feed_forward" in adapters else 0
    stored = inputs = largest = widest = 0
    for unit in unet_blocks(config, height, width):
        resnet = RESNET * itemsize * (unit.in_channels + unit.out_channels) * unit.cells
        token = unit.out_channels * unit.cells
        entry = ENTRY * itemsize * token if unit.depth else 0
        stored += resnet + entry + unit.depth * block * token
        inputs += itemsize * unit.in_channels * unit.cells + entry + unit.depth * itemsize * token
        largest = max(largest, resnet, (block + adding) * token if unit.depth else 0)
        widest = max(widest, adding * token if unit.depth else 0)
    return ActivationMemory(stored + widest, inputs + largest)


def text_activation_bytes(config: Any, half: bool, adapters: bool) -> float:
    """What a CLIPTextConfig's encoder stores for the backward pass of one prompt, with or without adapters."""
    kind, itemsize = ("half", 2) if half else ("full", 4)
    outer = TEXT[kind] + (TEXT_ADAPTED[kind] if adapters else 0)
    inner = itemsize * (2 if config.hidden_act == QUICK else 1)
    each = outer * config.hidden_size + inner * config.intermediate_size
    return each * config.num_hidden_layers * config.max_position_embeddings


def inference_bytes(
    config: Mapping[str, Any], height: int, width: int, half: bool, adapters: Collection[str] = EVERYWHERE
) -> float:
    """Peak bytes of one image in the denoiser without a backward pass; guidance takes it twice."""
    kind, itemsize = ("half", 2) if half else ("full", 4)
    token = INFERENCE_ADAPTED[kind] if "feed_forward" in adapters else INFERENCE
    peaks = []
    for unit in unet_blocks(config, height, width):
        transformer = token * unit.out_channels if unit.depth else 0
        peaks.append(unit.skipped + max(_resnet(unit.in_channels, unit.out_channels), transformer) * unit.cells)
    return itemsize * max(peaks)


def encoding_bytes(config: Mapping[str, Any], pixels: int, itemsize: int) -> float:
    """Peak bytes of an AutoencoderKL that encodes one image of `pixels`, with `itemsize` bytes a value."""
    widths = config["block_out_channels"]
    before = [widths[0], *widths]
    levels = (
        _resnet(given, wide) / 4**level + (wide if given == wide else 0) / 4**level
        for level, (given, wide) in enumerate(zip(before, widths, strict=False))
    )
    return itemsize * pixels * max(levels)


def decoding_bytes(config: Mapping[str, Any], pixels: int, itemsize: int) -> float:
    """Peak bytes to decode one image; more than encoding, for the last block begins twice as wide."""
    widths = config["block_out_channels"]
    before = [*widths[1:], widths[-1]]
    levels = (_resnet(given, wide) / 4**level for level, (given, wide) in enumerate(zip(before, widths, strict=True)))
    return itemsize * pixels * max(levels)


def _resnet(given: int, wide: int) -> int:
    """Values a cell that a residual block holds at once: input, normed and activated one, or input and four more."""
    return max(3 * given, given + 4 * wide if given != wide else 4 * wide)


def _values(skips: list[tuple[int, int]]) -> int:
    return sum(channels * cells for channels, cells in skips)


def _for_each_level(value: Any, levels: int) -> list[int]:
    if isinstance(value, int):
        return [value] * levels
    return [max(v) if isinstance(v, (list, tuple)) else v for v in value]


@dataclass(frozen=True)
class StableDiffusionCosts:
    """The networks' costs by their configurations; see `contract.ActivationCosts`."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoders: tuple[Any, ...] = ()

    def training(self, side: int, half: bool, adapters: Collection[str] = EVERYWHERE) -> ActivationMemory:
        cells = self._cells(side)
        return training_activations(self.unet, cells, cells, half, adapters)

    def sampling(self, side: int, half: bool, adapters: Collection[str] = EVERYWHERE) -> float:
        cells = self._cells(side)
        return inference_bytes(self.unet, cells, cells, half, adapters)

    def encoding(self, side: int, itemsize: int) -> float:
        return encoding_bytes(self.vae, side**2, itemsize)

    def decoding(self, side: int, itemsize: int) -> float:
        return decoding_bytes(self.vae, side**2, itemsize)

    def prompt(self, half: bool, adapters: bool) -> float:
        return sum(text_activation_bytes(config, half, adapters) for config in self.text_encoders)

    def _cells(self, side: int) -> int:
        return side // 2 ** (len(self.vae["block_out_channels"]) - 1)
