"""What a training may take of a device, and how a batch is split to fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch

from .unet_costs import Picture

HEADROOM = 600_000_000  # bytes left free: the driver spills to slow memory when a card is full
TRAINED = 12  # bytes a trained number: itself, its gradient and its last good value, in fp32
KEPT = MappingProxyType({"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "schedule_free": 8})
"""bytes that each optimiser keeps of a trained number: moments, and Prodigy's distance from the start"""
COPIED = 2  # bytes of a trained number's copy in half precision, which autocast keeps while a pass computes
AVERAGED = MappingProxyType({"schedule_free": 4})
"""bytes of a trained number for a while: what its update computes with, and later what is trained on, while the average
is looked at in its place"""
CONTEXT = 600_000_000  # bytes that CUDA, its libraries and their kernels take


@dataclass(frozen=True)
class Split:
    """How a step fits: pictures in one pass of the denoiser, whether activations are computed twice, whether encoders
    that are not trained wait on the host, whether the frozen denoiser is kept in 8 bits.

    `why` is one line; `bytes` is what the passes take by formula; `fits` is false where even the last resort does not,
    in a step or in another phase.
    """

    micro_batch: int
    checkpointing: bool
    why: str
    offload: bool = False
    float8: bool = False
    bytes: float = 0.0
    fits: bool = True


def trained_bytes(numbers: int, optimizer: str) -> int:
    """What so many trained numbers take beside the frozen networks."""
    return numbers * (TRAINED + KEPT[optimizer])


def split(
    rows: int,
    picture: Picture,
    free: int | None,
    checkpointing: str,
    micro_batch: int,
    offload: tuple[str, float] = ("off", 0.0),
    float8: tuple[str, float] = ("full", 0.0),
    beside: Callable[[int, bool], float] | None = None,
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
        beside: the most bytes that another phase of the training needs beyond what all networks take, by the pictures
            in a pass and by whether encoders wait in a step.
    """
    if free is None:
        whole = min(micro_batch or rows, rows)
        on = checkpointing == "on"
        why = "free memory is not known here, so nothing is split unasked"
        return Split(whole, on, why, offload[0] == "on", float8[0] == "float8", picture.together(whole, on))
    tried = []
    for on, waiting, small in _ways(checkpointing, offload[0], float8[0]):
        room = max(0.0, free - HEADROOM + small * float8[1])
        each, left = picture.bytes(on), room + waiting * offload[1] - picture.once
        fitting = min(rows, micro_batch or max(1, int(left // each)))
        while beside and not micro_batch and fitting > 1 and beside(fitting, waiting) > room:
            fitting -= 1
        why = f"{free / 1e9:.1f} GB are free, a picture takes about {each / 1e9:.2f} GB"
        fits = (micro_batch or 1) * each <= left
        fits = fits and (beside is None or beside(fitting, waiting) <= room)
        tried.append(Split(fitting, on, why, waiting, small, picture.together(fitting, on), fits))
        if fits:
            break
    return tried[-1]


def drawn_at_once(micro_batch: int) -> int:
    """Pictures that a validation draws together on a GPU: guidance runs the denoiser on two rows for each."""
    return max(1, micro_batch // 2)


def copied_bytes(numbers: int, half: bool) -> int:
    """What a pass takes for so many trained numbers, which are fp32, where networks compute in half precision."""
    return COPIED * numbers if half else 0


@dataclass(frozen=True)
class Work:
    """Bytes that a training takes beyond its weights where it does not step.

    encoding: pictures into latents, once; prompts take less. denoising, decoding: a picture that is drawn for a
    validation or a preview, 0 where none is. judging: the models that look at drawn pictures. copied: of trained
    weights, once for all that are drawn together. averaged: what an optimiser takes for its update, and while pictures
    are drawn and looked at.
    """

    encoding: float = 0.0
    denoising: float = 0.0
    decoding: float = 0.0
    judging: float = 0.0
    copied: float = 0.0
    averaged: float = 0.0

    def drawing(self, together: int) -> float:
        """To draw so many pictures together."""
        return together * self.denoising + self.copied + self.averaged

    def most(self, micro_batch: int, waits: float, text: float) -> float:
        """The most of these, less what waits on the host then: `waits` all encoders, of which `text` are no
        autoencoder."""
        phases = [self.encoding, self.averaged - waits]
        if self.denoising or self.decoding or self.judging:
            drawn = drawn_at_once(micro_batch)
            looked_at = max(drawn * self.decoding - text, self.judging - waits)
            phases += [self.drawing(drawn), looked_at + self.averaged]
        return max(phases)


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
