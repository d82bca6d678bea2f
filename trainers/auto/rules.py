"""Resolve settings left at auto: each a function of the data or the base, with its reason.

Only how a step fits into memory depends on the machine, and that does not change what is learned; so settings left
open give the same content key and the same result everywhere, up to the precision that a machine computes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from ...core.errors import FewShotError
from ...models.contract import ActivationMemory
from ..relation.settings import RelationSettings
from ..settings.training import AdapterSettings, DenoisingSettings, LearnedToken, TrainingSettings
from ..subject.settings import SubjectSettings
from ..targets import adapted_parts
from .fit import (
    EMA_TEMPORARY,
    BatchSplit,
    MemoryOptions,
    PhaseMemory,
    autocast_bytes,
    encoding_batch,
    split_batch,
    trained_bytes,
)
from .inputs import AutoInputs

T = TypeVar("T", bound=TrainingSettings)
REFERENCE_SIZE = 860e6  # parameters of SD 1.x's UNet, for which common settings were tuned
REFERENCE_CELLS = 64 * 64  # latent cells of its images
REFERENCE_RATE = 1e-4
HIGHEST_RATE = 1e-3
MOST_PICTURES = 4  # the largest automatic batch: it averages over a step's noise well enough
STEPS_PER_REFERENCE = 120
FEWEST_STEPS, MOST_STEPS = 400, 1500
LOCAL_WEIGHT = 0.05
ALLOCATOR = 1.1  # what a step takes beyond its tensors: their allocator's rounding and gaps, and kernels' workspaces
FLOAT8_SAVES = 0.48  # share of a half-precision denoiser that 8 bits save: all but norms, biases and scales


def resolve(settings: T, inputs: AutoInputs) -> tuple[T, tuple[str, ...]]:
    """The settings with a value for everything left open, and a line for each choice.

    Raises:
        FewShotError: the resolution does not fit the base.
    """
    chosen, reasons = settings, []
    _check_resolution(settings.resolution or inputs.native_resolution, inputs)
    for name, rule in RULES.items():
        choice = rule(chosen, inputs) if name in chosen.left_open else None
        if choice is None:
            continue
        if choice.value is not None:
            chosen = replace(chosen, **{name: choice.value})
        reasons.append(f"{name}: {choice.why}" if choice.value is None else f"{name} = {choice.value} ({choice.why})")
    chosen, why = _split(chosen, inputs)
    return chosen, (*reasons, why)


class AutoChoice(NamedTuple):
    """The value of a setting left open, None where it cannot be known yet, and why."""

    value: float | None
    why: str


def learning_rate(parameters: int) -> float:
    """1e-4 for UNets of SD 1.x's size and larger, more for smaller ones: ~ 1 / sqrt(parameters), at most 1e-3.

    Adam's steps change what a layer gives in proportion to its width (Yang et al. 2022, arXiv:2203.03466), and a
    network's parameters go with the square of its width.
    """
    rate = REFERENCE_RATE * math.sqrt(REFERENCE_SIZE / parameters)
    return _rounded(min(max(rate, REFERENCE_RATE), HIGHEST_RATE))


FULL_SHARE, EVERYTHING_SHARE = 0.1, 0.05  # of a LoRA's rate, where weights themselves move
TOKEN_SHARE = 0.07


def _resolution(chosen: TrainingSettings, inputs: AutoInputs) -> AutoChoice:
    return AutoChoice(inputs.native_resolution, "the base's own")


def _learning_rate(chosen: AdapterSettings, inputs: AutoInputs) -> AutoChoice:
    if chosen.optimizer == "prodigy":
        return AutoChoice(1.0, "a factor: Prodigy finds the step size")
    rate, why = _usual_rate(inputs)
    if chosen.rate_share != 1:
        rate, why = _rounded(rate * chosen.rate_share), f"{why}; {chosen.rate_share:g} of that with this method"
    if not chosen.in_full:
        return AutoChoice(rate, why)
    share = EVERYTHING_SHARE if chosen.everything else FULL_SHARE
    return AutoChoice(_rounded(rate * share), f"{why}; {share:g} of that where weights are trained in full")


def _high_noise_rate(chosen: RelationSettings, inputs: AutoInputs) -> AutoChoice | None:
    return AutoChoice(*_usual_rate(inputs)) if chosen.high_noise_rank else None


def _usual_rate(inputs: AutoInputs) -> tuple[float, str]:
    if inputs.family_rate is not None:
        return inputs.family_rate, "what is usual for this family"
    return learning_rate(inputs.parameters), f"{inputs.parameters / 1e6:.0f} M parameters; {RATE_RULE}"


def _alpha(chosen: AdapterSettings, inputs: AutoInputs) -> AutoChoice:
    return AutoChoice(float(chosen.rank), "equal to rank: the adapter is not scaled")


def _text_rate(chosen: SubjectSettings, inputs: AutoInputs) -> AutoChoice | None:
    if not chosen.text_encoder:
        return None
    if chosen.optimizer == "prodigy":
        return AutoChoice(1.0, "a factor: Prodigy finds the step size")
    share = 0.5 if inputs.text_encoders == 1 else 0.05
    if chosen.in_full:  # the text encoder's adapter is low-rank all the same
        return AutoChoice(_rounded(learning_rate(inputs.parameters) * share), f"{share:g} of a low-rank learning_rate")
    return AutoChoice(_rounded(chosen.learning_rate * share), f"{share:g} of learning_rate")


def _token_rate(chosen: LearnedToken, inputs: AutoInputs) -> AutoChoice | None:
    if chosen.word is None:
        return None
    if chosen.token == "direction":
        return AutoChoice(chosen.angle, "radians a step")
    if inputs.embedding_rms is None:
        return AutoChoice(None, f"{TOKEN_SHARE:g} of the vocabulary's usual number, when that is read")
    rate = _rounded(TOKEN_SHARE * inputs.embedding_rms)
    return AutoChoice(rate, f"{TOKEN_SHARE:g} of the vocabulary's usual number, {inputs.embedding_rms:.3g}")


def _local_weight(chosen: SubjectSettings, inputs: AutoInputs) -> AutoChoice:
    if inputs.all_masked:
        return AutoChoice(LOCAL_WEIGHT, "every picture has a mask and a caption that says more than the subject")
    return AutoChoice(0.0, "not every picture has a mask and a caption that says more than the subject")


def _batch_size(chosen: DenoisingSettings, inputs: AutoInputs) -> AutoChoice:
    return AutoChoice(batch_size(inputs.parameters, (chosen.resolution // inputs.vae_scale_factor) ** 2), BATCH_RULE)


def _steps(chosen: DenoisingSettings, inputs: AutoInputs) -> AutoChoice:
    several = f" of {inputs.concepts} subjects" if inputs.concepts > 1 else ""
    number = steps(inputs.references, chosen.batch_size, inputs.concepts, inputs.parameters)
    return AutoChoice(number, f"{inputs.references} references{several}; {STEPS_RULE}")


# The rule of each setting that a method may leave open, in the order in which one depends on another; what depends on
# the device's memory is chosen last, and together.
RULES: Mapping[str, Callable[[Any, AutoInputs], AutoChoice | None]] = {
    "resolution": _resolution,
    "learning_rate": _learning_rate,
    "high_noise_learning_rate": _high_noise_rate,
    "alpha": _alpha,
    "text_learning_rate": _text_rate,
    "token_learning_rate": _token_rate,
    "local_weight": _local_weight,
    "batch_size": _batch_size,
    "steps": _steps,
}

RATE_RULE = "1e-4 at 860 M and above, rising as 1 / sqrt(parameters) to at most 1e-3"


def batch_size(parameters: int, cells: int) -> int:
    """As many references as take the work (parameters x latent cells) of one SD 1.x picture of 512 x 512; 1 to 4."""
    affordable = int(REFERENCE_SIZE * REFERENCE_CELLS / (parameters * cells))
    return min(max(affordable, 1), MOST_PICTURES)


BATCH_RULE = "what costs as much as one SD 1.x picture of 512 x 512, from 1 to 4"


def steps(references: int, batch: int, concepts: int = 1, parameters: float = REFERENCE_SIZE) -> int:
    """120 for each reference at batch 1, fewer by sqrt(batch) as the gradients' noise falls; 400 to 1500.

    Of several subjects what one would take, times their number to the power of 0.7: they share the class and the base.
    A denoiser smaller than SD 1.x's takes more, by the fourth root: one of 11 M showed a subject's two colours on 17 %
    of the samples after 400 steps and on twice as many after 1200.
    """
    one = min(max(STEPS_PER_REFERENCE * references / concepts / math.sqrt(batch), FEWEST_STEPS), MOST_STEPS)
    small = max(1.0, REFERENCE_SIZE / parameters) ** SMALLER
    return round(one * small * concepts**MORE_SUBJECTS)


MORE_SUBJECTS, SMALLER = 0.7, 0.25
STEPS_RULE = (
    "120 each / sqrt(batch_size), from 400 to 1500; more for denoisers under 860 M, and for n subjects what one takes, "
    "times n ** 0.7"
)


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")


def _check_resolution(resolution: int, inputs: AutoInputs) -> None:
    multiple = inputs.size_multiple
    if resolution % multiple or resolution < multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        raise FewShotError(
            f"resolution is {resolution}, but this base takes multiples of {multiple} pixels. Use {near}, or 0 for its "
            f"own ({inputs.native_resolution})."
        )


def _split(settings: T, inputs: AutoInputs) -> tuple[T, str]:
    rows = settings.rows(inputs.priors)
    plan = split_of(settings, inputs)
    checkpointing, offload = ("on" if flag else "off" for flag in (plan.checkpointing, plan.offload))
    weights = "float8" if plan.float8 else "full"
    line = (
        f"{rows} pictures a step, {plan.micro_batch} in a pass, gradient_checkpointing {checkpointing}, offload "
        f"{offload}, weights {weights} ({plan.why})"
    )
    if not plan.fits:
        line += "; that is too much for this device: lower resolution or rank, or train attention alone (parameter_set)"
    chosen = replace(settings, micro_batch=plan.micro_batch, gradient_checkpointing=checkpointing)
    return replace(chosen, offload=offload, weights=weights), line


def split_of(settings: TrainingSettings, inputs: AutoInputs) -> BatchSplit:
    """How a step of these settings fits into `inputs.free_bytes`; batch_size and resolution are chosen already."""
    trained = trained_bytes(inputs.trainable_parameters, settings.optimizer_name)
    is_known = inputs.free_bytes is not None
    phases = phase_memory(settings, inputs) if is_known else PhaseMemory()
    options = MemoryOptions(
        settings.gradient_checkpointing,
        settings.micro_batch,
        settings.offload,
        "full" if _in_full(settings) or (settings.weights == "auto" and not inputs.owns_weights) else settings.weights,
        inputs.offloadable_bytes,
        inputs.denoiser_bytes * FLOAT8_SAVES if inputs.is_half else 0.0,
    )

    def peak_elsewhere(micro_batch: int, offload: bool) -> float:
        return phases.peak(micro_batch, offload * inputs.offloadable_bytes, offload * inputs.text_encoder_bytes)

    return split_batch(
        settings.rows(inputs.priors),
        step_memory(settings, inputs) if is_known else ActivationMemory(0.0, 0.0),
        None if inputs.free_bytes is None else int(inputs.free_bytes - trained),
        options,
        peak_elsewhere,
    )


def step_memory(settings: TrainingSettings, inputs: AutoInputs) -> ActivationMemory:
    """What a pass of a training step takes for one picture; the resolution is chosen already."""
    image = inputs.costs.training(settings.resolution, inputs.is_half, adapted_parts(settings))
    copies = autocast_bytes(inputs.trainable_parameters, inputs.is_half)
    text = inputs.text_activation_bytes
    image = ActivationMemory(ALLOCATOR * image.stored, ALLOCATOR * image.checkpointed, ALLOCATOR * image.once)
    return image.beside(text, copies)


def phase_memory(settings: TrainingSettings, inputs: AutoInputs) -> PhaseMemory:
    """Bytes beyond the weights in the phases other than the training step; the resolution is chosen already."""
    side, costs = settings.resolution, inputs.costs
    encoding = encoding_batch(side) * costs.encoding(side, inputs.vae_itemsize)
    optimizer = EMA_TEMPORARY.get(settings.optimizer_name, 0) * inputs.trainable_parameters
    if not inputs.samples_images:
        return PhaseMemory(encoding, optimizer=optimizer)
    copied = autocast_bytes(inputs.trainable_parameters, inputs.is_half)
    return PhaseMemory(
        encoding,
        2 * costs.sampling(side, inputs.is_half, adapted_parts(settings)),
        costs.decoding(side, inputs.vae_itemsize),
        inputs.validator_bytes,
        copied if _in_full(settings) else 0.0,  # adapters sample in fp32
        optimizer,
    )


def _in_full(settings: TrainingSettings) -> bool:
    return settings.adapter is not None and settings.adapter.in_full
