"""Where the denoiser looks for which word: cross-attention of chosen layers, kept beside the main path.

The hooks keep what `to_q` and `to_k` give and change nothing, so the main path keeps its fused attention and its output
stays the same to the bit. Probabilities are computed afterwards, for the wanted tokens only. Everything is written for
(image queries, text keys).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ...core.errors import FewShotError

SMALL = 32
"""latents with fewer cells a side are looked at in full resolution too"""
_LAYER = re.compile(r"(down|up)_blocks\.(\d+)\.attentions\.\d+\.transformer_blocks\.0\.attn2")


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer. `level` counts halvings of the latents' grid."""

    name: str
    level: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The layer's grid for latents (height, width)."""
        for _ in range(self.level):
            height, width = (height + 1) // 2, (width + 1) // 2
        return height, width


def chosen_layers(unet: Any, height: int, width: int) -> tuple[Layer, ...]:
    """The layers whose maps say where things are, for latents (height, width), the finest first.

    Those at a half and a quarter of the latents' resolution: finer ones follow texture, coarser ones see no shapes.
    Where latents have fewer than 32 cells a side, full resolution and a half. Of each attention block the first
    transformer counts, since SDXL has ten in a row.

    Raises:
        FewShotError: the denoiser has no cross-attention outside its middle.
    """
    levels = len(unet.config.block_out_channels)
    found = []
    for name, _ in unet.named_modules():
        match = _LAYER.fullmatch(name)
        if match:
            number = int(match[2])
            found.append(Layer(name, number if match[1] == "down" else levels - 1 - number))
    if not found:
        raise FewShotError("the denoiser has no cross-attention whose maps could be supervised: set local_weight to 0.")
    coarser = [layer for layer in found if layer.level > 0]
    if min(height, width) >= SMALL and coarser:
        found = coarser
    finest = sorted({layer.level for layer in found})[:2]
    return tuple(sorted((layer for layer in found if layer.level in finest), key=lambda layer: layer.level))


@dataclass
class Captured:
    """What the chosen layers computed in the last forward pass: queries (B, N, D) and keys (B, L, D) by layer."""

    layers: tuple[Layer, ...]
    heads: Mapping[str, int]
    norms: Mapping[str, tuple[nn.Module | None, nn.Module | None]]
    recording: bool = True
    queries: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)

    def of(self, layer: Layer, rows: slice) -> tuple[Tensor, Tensor]:
        """Queries (b, H, N, d) and keys (b, H, L, d) of some rows of the batch, as the layer's attention uses them."""
        heads = self.heads[layer.name]
        states = (self.queries[layer.name], self.keys[layer.name])
        split = [state[rows].unflatten(-1, (heads, -1)).transpose(1, 2) for state in states]
        both = [s if norm is None else norm(s) for s, norm in zip(split, self.norms[layer.name], strict=True)]
        return both[0], both[1]


@contextmanager
def captured(unet: Any, layers: Sequence[Layer]) -> Iterator[Captured]:
    """Keep the queries and keys of `layers` in the one forward pass within the context.

    Layers that checkpointing computes again in the backward pass are not kept again: leave the context before.
    """
    modules = {layer.name: unet.get_submodule(layer.name) for layer in layers}
    norms = {n: (getattr(m, "norm_q", None), getattr(m, "norm_k", None)) for n, m in modules.items()}
    kept = Captured(tuple(layers), {name: module.heads for name, module in modules.items()}, norms)
    handles = []

    def keep(into: dict[str, Tensor], name: str):
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if kept.recording:
                into[name] = output

        return hook

    for name, module in modules.items():
        handles.append(module.to_q.register_forward_hook(keep(kept.queries, name)))
        handles.append(module.to_k.register_forward_hook(keep(kept.keys, name)))
    try:
        yield kept
    finally:
        kept.recording = False
        for handle in handles:
            handle.remove()
