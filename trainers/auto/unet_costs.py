"""Bytes that networks hold while they compute, by formula from their configurations: in a step, and in drawing.

They follow from what torch keeps when each operation runs by itself: attention is fused, a frozen linear layer keeps
nothing, a frozen convolution its input, and an adapter (in fp32) a copy of its input in fp32. Workspace of kernels and
what the allocator rounds up are not in them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

RESNET = 3  # numbers kept a place and channel (in and out) in a residual block: input of norm, activation, convolution
ENTRY = 3  # and in a transformer, a place and channel: the norm's input and both projections'
EVERYWHERE = ("self", "cross", "feed_forward")
BLOCK = {"half": 42, "full": 84}
"""bytes kept a token and channel in a transformer block that is frozen: inputs of three norms; query, key, value and
output of attention; its query and output in cross-attention; both halves of the feed-forward layer and the activated
one, each of four widths"""
ADAPTED = {
    "half": {"self": 16, "cross": 8, "feed_forward": 20},
    "full": {"self": 8, "cross": 8, "feed_forward": 20},
}
"""bytes more with adapters: their inputs in fp32, in half precision once for each of query, key and value"""
ADDING = {"half": 40, "full": 0}
"""bytes more for a moment where an adapter's part, in fp32, is added to the feed-forward layer's first half"""
PASSING, PASSING_ADAPTED = 23, {"half": 49, "full": 31}
"""numbers a token and channel that a transformer block holds at once without a backward pass, at its feed-forward
layer; there with adapters, whose sum is fp32"""


READING = {"half": 14, "full": 28}
"""bytes kept a token and channel in a text encoder's layer beside its inner half: inputs of two norms, attention's
four"""
READING_ADAPTED = {"half": 16, "full": 4}
"""and with adapters in its attention"""
QUICK = "quick_gelu"  # which keeps two numbers of each inner channel, where others keep one


@dataclass(frozen=True)
class Unit:
    """One residual block with a transformer of `depth` blocks behind it (0: none), as a UNet runs through them.

    given, wide: channels in and out; places: of the latents there; held: numbers that wait for the way up meanwhile.
    """

    given: int
    wide: int
    places: int
    depth: int
    held: int


@dataclass(frozen=True)
class Picture:
    """Bytes of one picture in a training step of the denoiser, all kept, or with gradient checkpointing.

    `once` are bytes that a pass takes however many pictures are in it.
    """

    kept: float
    checkpointed: float
    once: float = 0.0

    def beside(self, more: float, once: float = 0.0) -> Picture:
        """With so many bytes more, which checkpointing does not change."""
        return Picture(self.kept + more, self.checkpointed + more, self.once + once)

    def bytes(self, checkpointing: bool) -> float:
        return self.checkpointed if checkpointing else self.kept

    def together(self, number: int, checkpointing: bool) -> float:
        """What a pass of so many takes."""
        return number * self.bytes(checkpointing) + self.once


def units(config: Mapping[str, Any], height: int, width: int) -> list[Unit]:
    """The units of a UNet2DConditionModel with this configuration, for latents (height, width)."""
    widths = config["block_out_channels"]
    layers = _for_each_level(config["layers_per_block"], len(widths))
    depths = _for_each_level(config.get("transformer_layers_per_block", 1), len(widths))
    downs, ups = config["down_block_types"], config["up_block_types"][::-1]
    places = [(height >> level) * (width >> level) for level in range(len(widths))]
    found, now, skips = [], widths[0], [(widths[0], places[0])]
    for level, wide in enumerate(widths):
        for _ in range(layers[level]):
            depth = depths[level] if "Attn" in downs[level] else 0
            found.append(Unit(now, wide, places[level], depth, _numbers(skips)))
            now = wide
            skips.append((wide, places[level]))
        if level + 1 < len(widths):
            skips.append((wide, places[level + 1]))
    for depth in (depths[-1], 0):
        found.append(Unit(now, now, places[-1], depth, _numbers(skips)))
    for level, wide in reversed(list(enumerate(widths))):
        held = _numbers(skips)  # a block keeps hold of what it uses until its end
        for _ in range(layers[level] + 1):
            depth = depths[level] if "Attn" in ups[level] else 0
            found.append(Unit(now + skips.pop()[0], wide, places[level], depth, held))
            now = wide
    return found


def step_of_picture(
    config: Mapping[str, Any], height: int, width: int, half: bool, adapters: Collection[str] = EVERYWHERE
) -> Picture:
    """What a forward pass keeps for the backward pass of one picture with latents (height, width).

    With gradient checkpointing only what blocks are given is kept, and the largest of them is computed again at a time.

    Args:
        half: the frozen weights are in half precision.
        adapters: which of `EVERYWHERE` are trained.
    """
    kind, number = ("half", 2) if half else ("full", 4)
    block = BLOCK[kind] + sum(ADAPTED[kind][part] for part in EVERYWHERE if part in adapters)
    adding = ADDING[kind] if "feed_forward" in adapters else 0
    kept = given = largest = widest = 0
    for unit in units(config, height, width):
        resnet = RESNET * number * (unit.given + unit.wide) * unit.places
        token = unit.wide * unit.places
        entry = ENTRY * number * token if unit.depth else 0
        kept += resnet + entry + unit.depth * block * token
        given += number * unit.given * unit.places + entry + unit.depth * number * token
        largest = max(largest, resnet, (block + adding) * token if unit.depth else 0)
        widest = max(widest, adding * token if unit.depth else 0)
    return Picture(kept + widest, given + largest)


def prompt_bytes(config: Any, half: bool, adapters: bool) -> float:
    """What a CLIPTextConfig's encoder keeps for the backward pass of one prompt, with or without adapters."""
    kind, number = ("half", 2) if half else ("full", 4)
    outer = READING[kind] + (READING_ADAPTED[kind] if adapters else 0)
    inner = number * (2 if config.hidden_act == QUICK else 1)
    each = outer * config.hidden_size + inner * config.intermediate_size
    return each * config.num_hidden_layers * config.max_position_embeddings


def passing_bytes(
    config: Mapping[str, Any], height: int, width: int, half: bool, adapters: Collection[str] = EVERYWHERE
) -> float:
    """The most that one picture takes in the denoiser without a backward pass; a guided one takes it twice."""
    kind, number = ("half", 2) if half else ("full", 4)
    token = PASSING_ADAPTED[kind] if "feed_forward" in adapters else PASSING
    return number * max(
        unit.held + max(_resnet(unit.given, unit.wide), token * unit.wide if unit.depth else 0) * unit.places
        for unit in units(config, height, width)
    )


def encoding_bytes(config: Mapping[str, Any], pixels: int, number: int) -> float:
    """The most that an AutoencoderKL takes to encode one picture of so many pixels, a number taking `number` bytes."""
    widths = config["block_out_channels"]
    before = [widths[0], *widths]
    levels = (
        _resnet(given, wide) / 4**level + (wide if given == wide else 0) / 4**level
        for level, (given, wide) in enumerate(zip(before, widths, strict=False))
    )
    return number * pixels * max(levels)


def decoding_bytes(config: Mapping[str, Any], pixels: int, number: int) -> float:
    """The most that it takes to decode one; more than encoding, for the last block begins twice as wide."""
    widths = config["block_out_channels"]
    before = [*widths[1:], widths[-1]]
    levels = (_resnet(given, wide) / 4**level for level, (given, wide) in enumerate(zip(before, widths, strict=True)))
    return number * pixels * max(levels)


def _resnet(given: int, wide: int) -> int:
    """Numbers a place that a residual block holds at once: input, normed and activated one, or input and four more."""
    return max(3 * given, given + 4 * wide if given != wide else 4 * wide)


def _numbers(skips: list[tuple[int, int]]) -> int:
    return sum(channels * places for channels, places in skips)


def _for_each_level(value: Any, levels: int) -> list[int]:
    if isinstance(value, int):
        return [value] * levels
    return [max(v) if isinstance(v, (list, tuple)) else v for v in value]
