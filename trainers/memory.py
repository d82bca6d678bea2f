"""How much memory one picture takes in a training step, by formula, and how a batch is split to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

HEADROOM = 600_000_000  # bytes left free: the driver spills to slow memory when a card is full
BYTES_HALF = 3.5  # bytes an element kept for the backward pass under autocast, whose norms and adapters are fp32
BYTES_FULL = 4.0
CHECKPOINTED = 0.35  # share of the activations that stays with gradient checkpointing
TRAINED = 12  # bytes a trained number: itself, its gradient and its last good value, in fp32
KEPT = MappingProxyType({"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "schedule_free": 8})
"""bytes that each optimiser keeps of a trained number: moments, and Prodigy's distance from the start"""
CONTEXT = 600_000_000  # bytes that CUDA, its libraries and their kernels take
TRANSFORMER = 23  # elements kept a token and channel in a transformer block: norms, q, k, v, outputs, feed-forward
RESNET = 3  # elements kept a place and channel (in and out) in a residual block


@dataclass(frozen=True)
class Split:
    """How a step fits: pictures in one pass of the denoiser, whether activations are computed twice, whether encoders
    that are not trained wait on the host, whether the frozen denoiser is kept in 8 bits.

    `why` is one line; `bytes` is what the passes take by formula; `fits` is false where even the last resort does not.
    """

    micro_batch: int
    checkpointing: bool
    why: str
    offload: bool = False
    float8: bool = False
    bytes: float = 0.0
    fits: bool = True


def activation_elements(config: Mapping[str, Any], height: int, width: int) -> int:
    """Elements that a UNet's forward pass keeps for the backward pass of one picture with latents (height, width).

    Counted from the configuration's blocks; good to about a quarter.
    """
    widths = config["block_out_channels"]
    layers = _for_each_level(config["layers_per_block"], len(widths))
    depths = _for_each_level(config.get("transformer_layers_per_block", 1), len(widths))
    downs, ups = config["down_block_types"], config["up_block_types"][::-1]
    total = 0
    for level, channels in enumerate(widths):
        places = (height >> level) * (width >> level)
        before = widths[max(level - 1, 0)]
        for kinds, count, skip in ((downs, layers[level], before), (ups, layers[level] + 1, 2 * channels)):
            total += count * RESNET * (skip + channels) * places
            if "Attn" in kinds[level]:
                total += count * depths[level] * TRANSFORMER * channels * places
    smallest = (height >> (len(widths) - 1)) * (width >> (len(widths) - 1))
    return total + (2 * RESNET * 2 + depths[-1] * TRANSFORMER) * widths[-1] * smallest


def trained_bytes(numbers: int, optimizer: str) -> int:
    """What so many trained numbers take beside the frozen networks."""
    return numbers * (TRAINED + KEPT[optimizer])


def _for_each_level(value: Any, levels: int) -> list[int]:
    if isinstance(value, int):
        return [value] * levels
    return [max(v) if isinstance(v, (list, tuple)) else v for v in value]


def split(
    rows: int,
    picture_bytes: float,
    free: int | None,
    checkpointing: str,
    micro_batch: int,
    offload: tuple[str, float] = ("off", 0.0),
    float8: tuple[str, float] = ("full", 0.0),
) -> Split:
    """How `rows` pictures go through the denoiser with `free` bytes (None: not known, nothing is split).

    What costs next to nothing comes first: smaller passes, then encoders that wait on the host. Then gradient
    checkpointing too, which costs a second forward pass; last 8 bits for frozen weights, which change the result a
    little.

    Args:
        checkpointing: "auto", "on" or "off".
        micro_batch: a fixed number of pictures in a pass, or 0.
        offload: "auto", "on" or "off", and the bytes that encoders give back while they wait.
        float8: "auto", "full" or "float8", and the bytes that 8 bits save.
    """
    if free is None:
        whole = min(micro_batch or rows, rows)
        on = checkpointing == "on"
        why = "free memory is not known here, so nothing is split unasked"
        return Split(whole, on, why, offload[0] == "on", float8[0] == "float8", whole * _each(picture_bytes, on))
    tried = []
    for on, waiting, small in _ways(checkpointing, offload[0], float8[0]):
        room = max(0.0, free - HEADROOM + waiting * offload[1] + small * float8[1])
        each = _each(picture_bytes, on)
        fitting = min(rows, micro_batch or max(1, int(room // each)))
        why = f"{free / 1e9:.1f} GB are free, a picture takes about {each / 1e9:.2f} GB"
        fits = (micro_batch or 1) * each <= room
        tried.append(Split(fitting, on, why, waiting, small, fitting * each, fits))
        if fits:
            break
    return tried[-1]


def _each(picture_bytes: float, checkpointing: bool) -> float:
    return picture_bytes * (CHECKPOINTED if checkpointing else 1.0)


def _ways(checkpointing: str, offload: str, float8: str) -> list[tuple[bool, bool, bool]]:
    """(checkpointing, offload, float8) from the cheapest to the last resort, of those that are allowed."""
    order = [(False, False, False), (False, True, False), (True, True, False), (True, True, True)]
    order = [(on or checkpointing == "on", w or offload == "on", s or float8 == "float8") for on, w, s in order]
    order = [(on and checkpointing != "off", w and offload != "off", s and float8 != "full") for on, w, s in order]
    return list(dict.fromkeys(order))


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a CUDA device, what torch holds unused included; None on other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
