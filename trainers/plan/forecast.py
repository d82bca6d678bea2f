"""Estimate the memory of a training: on the GPU and on the host, for this device and for cards of any size.

GPU memory is the peak over the phases, each of weights, what is trained, and what passes through networks without
weights were seen to hold. Kernels' workspaces and rounding are not in it, so values are shown as estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...models.contract import ParameterCounts
from ..auto.fit import CONTEXT, HEADROOM, BatchSplit, sampling_batch, trained_bytes
from ..auto.inputs import AutoInputs
from ..auto.rules import FLOAT8_SAVES, phase_memory, split_of, step_memory
from ..settings.training import TrainingSettings

LIBRARIES = 2_000_000_000  # bytes of host memory that Python, torch and what they load take
STATES = 3 * 0.8  # share of the trained bytes while a state is written: all but gradients, and copied twice
CARDS = (8, 12, 16, 24)  # GB
BARE = 4  # bytes of a trained parameter before the first step
LOADING, ENCODING, STEP, SAMPLING, DECODING, SCORING = (
    "loading the base", "encoding the pictures", "the training step", "drawing pictures", "decoding drawn pictures",
    "validating drawn pictures",
)  # fmt: skip


@dataclass(frozen=True)
class MemoryDemand:
    """Bytes of GPU memory by what they are for."""

    context: float
    frozen: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        return self.context + self.frozen + self.trained + self.activations


# The demand of each phase, in the order in which they run.
Phases = Mapping[str, MemoryDemand]


def largest(phases: Phases) -> str:
    """The phase with the highest peak, the first of equals."""
    return max(phases, key=lambda name: phases[name].total)


@dataclass(frozen=True)
class CardFit:
    """How a training fits on a card of `size` bytes."""

    size: float
    split: BatchSplit
    phases: Phases

    @property
    def phase(self) -> str:
        return largest(self.phases)

    @property
    def demand(self) -> MemoryDemand:
        """The demand of the phase with the highest peak."""
        return self.phases[self.phase]

    @property
    def headroom(self) -> float:
        return self.size - self.demand.total

    @property
    def fits(self) -> bool:
        return self.headroom >= HEADROOM


def on_card(settings: TrainingSettings, inputs: AutoInputs, weights: ParameterCounts, size: float) -> CardFit:
    """What `auto` chooses on a CUDA card of `size` bytes that nothing else uses, in half precision (bfloat16).

    `settings` have batch_size and resolution resolved, and the settings that depend on memory as the user set them.
    """
    on_it = on_device(inputs, weights, 2, 2, settings.reads_text, size - CONTEXT)
    split = split_of(settings, on_it)
    return CardFit(size, split, phases(settings, split, on_it, weights))


def on_device(
    inputs: AutoInputs,
    weights: ParameterCounts,
    itemsize: int,
    vae_itemsize: int,
    reads_text: bool,
    capacity: float | None,
) -> AutoInputs:
    """`inputs` as on a device of `capacity` bytes (None: not known), with `itemsize` bytes a parameter."""
    denoiser, text, vae = itemsize * weights.denoiser, itemsize * weights.text, vae_itemsize * weights.autoencoder
    offloadable_text = 0 if reads_text else text
    return replace(
        inputs,
        is_half=itemsize == 2,
        vae_itemsize=vae_itemsize,
        free_bytes=None if capacity is None else int(capacity - denoiser - text - vae),
        denoiser_bytes=denoiser,
        offloadable_bytes=vae + offloadable_text,
        text_encoder_bytes=offloadable_text,
    )


def phases(
    settings: TrainingSettings, split: BatchSplit, inputs: AutoInputs, weights: ParameterCounts
) -> dict[str, MemoryDemand]:
    """The demand of each phase of a training with this split; of sampling and validation only where there is any.

    The denoiser is loaded alone, before it is converted to float8. Encoders are on the device to encode and to sample,
    and on the host in a step and while validators score, if they are offloaded; only the autoencoder stays to decode.
    """
    itemsize, memory = 2 if inputs.is_half else 4, phase_memory(settings, inputs)
    passes = step_memory(settings, inputs).together(split.micro_batch, split.checkpointing)
    denoiser = itemsize * weights.denoiser * (1 - FLOAT8_SAVES if split.float8 else 1)
    vae, text = inputs.vae_itemsize * weights.autoencoder, itemsize * weights.text
    everything = denoiser + vae + text
    offloaded = everything - (inputs.offloadable_bytes if split.offload else 0)
    decoding = everything - (inputs.text_encoder_bytes if split.offload else 0)
    bare, trained = (
        BARE * inputs.trainable_parameters,
        trained_bytes(inputs.trainable_parameters, settings.optimizer_name),
    )
    demands = {
        LOADING: MemoryDemand(CONTEXT, itemsize * weights.denoiser, 0, 0),
        ENCODING: MemoryDemand(CONTEXT, everything, bare, memory.encoding),
        STEP: MemoryDemand(CONTEXT, offloaded, trained, max(passes, memory.optimizer)),  # a pass, then the update
    }
    if not inputs.samples_images:
        return demands
    batch = sampling_batch(split.micro_batch)
    demands[SAMPLING] = MemoryDemand(CONTEXT, everything, trained, memory.sampling(batch))
    demands[DECODING] = MemoryDemand(CONTEXT, decoding, trained, batch * memory.decoding + memory.optimizer)
    if memory.scoring:
        demands[SCORING] = MemoryDemand(CONTEXT, offloaded, trained, memory.scoring + memory.optimizer)
    return demands


def host_memory(
    phases: Phases, split: BatchSplit, trained: int, inputs: AutoInputs, on_gpu: bool, validator: int
) -> float:
    """Bytes of host memory: offloaded encoders, a state while it is written, validators; on a CPU, everything.

    Args:
        trained: of `trained_bytes`.
    """
    fixed = LIBRARIES + STATES * trained + validator
    if not on_gpu:
        return fixed + phases[largest(phases)].total - CONTEXT
    return fixed + (inputs.offloadable_bytes if split.offload else 0)
