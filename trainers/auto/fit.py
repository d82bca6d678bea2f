"""Split a batch into passes that fit into the memory of a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ...models.contract import ActivationMemory

HEADROOM = 600_000_000  # bytes left free: the driver spills to slow memory when a card is full
TRAINED = 12  # bytes a trained parameter: itself, its gradient and its last good value, in fp32
# Bytes of optimizer state a trained parameter: moments, and Prodigy's distance from the start.
OPTIMIZER_STATE = MappingProxyType({"adamw": 8, "adamw_8bit": 2, "prodigy": 16, "schedule_free": 8})
AUTOCAST_COPY = 2  # bytes of a trained parameter's half-precision copy, which autocast caches during a pass
# Temporary bytes a trained parameter: for the update, and for the training weights while the average is evaluated.
EMA_TEMPORARY = MappingProxyType({"schedule_free": 4})
CONTEXT = 600_000_000  # bytes that CUDA, its libraries and their kernels take


@dataclass(frozen=True)
class BatchSplit:
    """How a step fits into memory.

    Args:
        micro_batch: images in one pass of the denoiser.
        why: one line for the log.
        offload: frozen encoders are moved to the host during steps.
        float8: the frozen denoiser is stored in 8 bits.
        fits: false where even the last resort does not fit, in a step or in another phase.
    """

    micro_batch: int
    checkpointing: bool
    why: str
    offload: bool = False
    float8: bool = False
    fits: bool = True


@dataclass(frozen=True)
class MemoryOptions:
    """Which means of saving memory a step may use, and how much two of them save.

    Args:
        checkpointing: "auto", "on" or "off".
        micro_batch: a fixed number of images in a pass, or 0.
        offload: "auto", "on" or "off".
        weights: "auto", "full" or "float8".
        offloadable_bytes: what moving the encoders to the host frees.
        float8_saves: bytes that storing the denoiser in 8 bits saves.
    """

    checkpointing: str
    micro_batch: int = 0
    offload: str = "off"
    weights: str = "full"
    offloadable_bytes: float = 0.0
    float8_saves: float = 0.0

    def ways(self) -> list[tuple[bool, bool, bool]]:
        """(checkpointing, offload, float8) from the cheapest to the last resort, of those that are allowed."""
        order = [(False, False, False), (False, True, False), (True, True, False), (True, True, True)]
        order = [
            (c or self.checkpointing == "on", o or self.offload == "on", f or self.weights == "float8")
            for c, o, f in order
        ]
        order = [
            (c and self.checkpointing != "off", o and self.offload != "off", f and self.weights != "full")
            for c, o, f in order
        ]
        return list(dict.fromkeys(order))


def trained_bytes(parameters: int, optimizer: str) -> int:
    """Bytes of trained parameters, with gradients and optimizer state."""
    return parameters * (TRAINED + OPTIMIZER_STATE[optimizer])


def split_batch(
    rows: int,
    image: ActivationMemory,
    free_bytes: int | None,
    options: MemoryOptions,
    peak_elsewhere: Callable[[int, bool], float] | None = None,
) -> BatchSplit:
    """How `rows` images go through the denoiser with `free_bytes` (None: not known, nothing is split).

    What costs next to nothing comes first: smaller passes, then encoders on the host. Then gradient checkpointing,
    which costs a second forward pass; last float8 for frozen weights, which changes the result a little.

    Args:
        image: activations of one image; not looked at where free memory is not known.
        peak_elsewhere: the most bytes that another phase needs beyond the weights of all networks, by `micro_batch`
            and by whether encoders are offloaded in a step.
    """
    fixed = options.micro_batch
    if free_bytes is None:
        together = min(fixed or rows, rows)
        checkpointing = options.checkpointing == "on"
        why = "free memory is not known here, so nothing is split unasked"
        offload, float8 = options.offload == "on", options.weights == "float8"
        return BatchSplit(together, checkpointing, why, offload, float8)
    tried = []
    for checkpointing, offload, float8 in options.ways():
        room = max(0.0, free_bytes - HEADROOM + float8 * options.float8_saves)
        each, left = image.bytes(checkpointing), room + offload * options.offloadable_bytes - image.once
        fitting = min(rows, fixed or max(1, int(left // each)))
        while peak_elsewhere and not fixed and fitting > 1 and peak_elsewhere(fitting, offload) > room:
            fitting -= 1
        why = f"{free_bytes / 1e9:.1f} GB are free, a picture takes about {each / 1e9:.2f} GB"
        fits = (fixed or 1) * each <= left
        fits = fits and (peak_elsewhere is None or peak_elsewhere(fitting, offload) <= room)
        tried.append(BatchSplit(fitting, checkpointing, why, offload, float8, fits))
        if fits:
            break
    return tried[-1]


def sampling_batch(micro_batch: int) -> int:
    """Images that a validation samples together on a GPU: guidance runs the denoiser on two rows for each."""
    return max(1, micro_batch // 2)


def autocast_bytes(parameters: int, is_half: bool) -> int:
    """What autocast caches of trained fp32 parameters in a pass, where the networks are in half precision."""
    return AUTOCAST_COPY * parameters if is_half else 0


@dataclass(frozen=True)
class PhaseMemory:
    """Bytes beyond the weights in the phases other than the training step.

    Args:
        encoding: images into latents, once; prompts take less.
        denoising: one image that is sampled for a validation or preview; 0 where none is.
        decoding: the same image in the autoencoder's decoder.
        scoring: the models that validate.
        autocast: copies of trained weights, once for all images that are sampled together.
        optimizer: temporary bytes of the update, and of the weights while their average is evaluated.
    """

    encoding: float = 0.0
    denoising: float = 0.0
    decoding: float = 0.0
    scoring: float = 0.0
    autocast: float = 0.0
    optimizer: float = 0.0

    def sampling(self, batch: int) -> float:
        """To sample `batch` images together."""
        return batch * self.denoising + self.autocast + self.optimizer

    def peak(self, micro_batch: int, offloaded: float, text: float) -> float:
        """The most of these, less what is on the host then: `offloaded` all encoders, `text` the text encoders."""
        phases = [self.encoding, self.optimizer - offloaded]
        if self.denoising or self.decoding or self.scoring:
            batch = sampling_batch(micro_batch)
            finished = max(batch * self.decoding - text, self.scoring - offloaded)
            phases += [self.sampling(batch), finished + self.optimizer]
        return max(phases)


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a CUDA device, torch's unused cache included; None on other devices."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def encoding_batch(resolution: int) -> int:
    """Images that are encoded together: four of 512 px, or as many pixels."""
    return max(1, min(4, 4 * 512 * 512 // resolution**2))
