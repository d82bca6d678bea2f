"""Resolve settings left at auto: each a function of the data or the base, with its reason.

Only how a step fits into memory depends on the machine, and that does not change what is learned; so settings left
open give the same content key and the same result everywhere, up to the precision that a machine computes in.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ...core.errors import FewShotError
from ...core.settings import SubjectSettings
from ..targets import adapted_parts
from .fit import EMA_TEMPORARY, BatchSplit, MemoryOptions, PhaseMemory, autocast_bytes, split_batch, trained_bytes
from .inputs import AutoInputs

REFERENCE_SIZE = 860e6  # parameters of SD 1.x's UNet, for which common settings were tuned
REFERENCE_CELLS = 64 * 64  # latent cells of its images
REFERENCE_RATE = 1e-4
HIGHEST_RATE = 1e-3
MOST_PICTURES = 4  # the largest automatic batch: it averages over a step's noise well enough
STEPS_PER_REFERENCE = 120
FEWEST_STEPS, MOST_STEPS = 400, 1500
FLOAT8_SAVES = 0.48  # share of a half-precision denoiser that 8 bits save: all but norms, biases and scales


def resolve(settings: SubjectSettings, inputs: AutoInputs) -> tuple[SubjectSettings, tuple[str, ...]]:
    """The settings with a value for everything left open, and a line for each choice.

    Raises:
        FewShotError: the resolution does not fit the base.
    """
    chosen = settings
    reasons = []

    def choose(name: str, value: Any, why: str) -> None:
        nonlocal chosen
        if chosen.is_auto(name) and name not in chosen.UNUSED:
            chosen = replace(chosen, **{name: value})
            reasons.append(f"{name} = {value} ({why})")

    choose("resolution", inputs.native_resolution, "the base's own")
    _check_resolution(chosen.resolution, inputs)
    for name in chosen.denoiser_rates:
        choose(name, *_denoiser_rate(chosen, inputs))
    choose("alpha", float(chosen.rank), "equal to rank: the adapter is not scaled")
    if chosen.text_encoder:
        choose("text_learning_rate", *_text_rate(chosen, inputs))
    if chosen.token == "free" and inputs.embedding_rms is None:
        reasons.append(f"token_learning_rate: {TOKEN_SHARE:g} of the vocabulary's usual number, when that is read")
    elif chosen.token != "none":
        choose("token_learning_rate", *_token_rate(chosen, inputs))
    choose("batch_size", batch_size(inputs.parameters, (chosen.resolution // inputs.vae_scale_factor) ** 2), BATCH_RULE)
    several = f" of {inputs.concepts} subjects" if inputs.concepts > 1 else ""
    if chosen.is_auto("steps"):
        number = steps(inputs.references, chosen.batch_size, inputs.concepts, inputs.parameters)
        choose("steps", number, f"{inputs.references} references{several}; {STEPS_RULE}")
    chosen, why = _split(chosen, inputs)
    return chosen, (*reasons, why)


def learning_rate(parameters: int) -> float:
    """1e-4 for UNets of SD 1.x's size and larger, more for smaller ones: ~ 1 / sqrt(parameters), at most 1e-3.

    Adam's steps change what a layer gives in proportion to its width (Yang et al. 2022, arXiv:2203.03466), and a
    network's parameters go with the square of its width.
    """
    rate = REFERENCE_RATE * math.sqrt(REFERENCE_SIZE / parameters)
    return _rounded(min(max(rate, REFERENCE_RATE), HIGHEST_RATE))


FULL_SHARE, EVERYTHING_SHARE = 0.1, 0.05  # of a LoRA's rate, where weights themselves move
TOKEN_SHARE, TOKEN_ANGLE = 0.07, 0.01


def _denoiser_rate(chosen: SubjectSettings, inputs: AutoInputs) -> tuple[float, str]:
    if chosen.optimizer == "prodigy":
        return 1.0, "a factor: Prodigy finds the step size"
    rate, why = learning_rate(inputs.parameters), f"{inputs.parameters / 1e6:.0f} M parameters; {RATE_RULE}"
    if chosen.rate_share != 1:
        rate, why = _rounded(rate * chosen.rate_share), f"{why}; {chosen.rate_share:g} of that with this method"
    if chosen.tuning != "full":
        return rate, why
    share = EVERYTHING_SHARE if chosen.parameter_set == "all" else FULL_SHARE
    return _rounded(rate * share), f"{why}; {share:g} of that where weights are trained in full"


def _text_rate(chosen: SubjectSettings, inputs: AutoInputs) -> tuple[float, str]:
    if chosen.optimizer == "prodigy":
        return 1.0, "a factor: Prodigy finds the step size"
    share = 0.5 if inputs.text_encoders == 1 else 0.05
    if chosen.tuning == "full":  # the text encoder's adapter is low-rank all the same
        return _rounded(learning_rate(inputs.parameters) * share), f"{share:g} of a low-rank learning_rate"
    return _rounded(chosen.learning_rate * share), f"{share:g} of learning_rate"


def _token_rate(chosen: SubjectSettings, inputs: AutoInputs) -> tuple[float, str]:
    if chosen.token == "direction":
        return TOKEN_ANGLE, "radians a step"
    assert inputs.embedding_rms is not None
    rate = _rounded(TOKEN_SHARE * inputs.embedding_rms)
    return rate, f"{TOKEN_SHARE:g} of the vocabulary's usual number, {inputs.embedding_rms:.3g}"


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


def _split(settings: SubjectSettings, inputs: AutoInputs) -> tuple[SubjectSettings, str]:
    rows = rows_of(settings, inputs.priors)
    plan = split_of(settings, inputs)
    checkpointing, offload = ("on" if flag else "off" for flag in (plan.checkpointing, plan.offload))
    weights = "float8" if plan.float8 else "full"
    line = (
        f"{rows} pictures a step, {plan.micro_batch} in a pass, gradient_checkpointing {checkpointing}, offload "
        f"{offload}, weights {weights} ({plan.why})"
    )
    if not plan.fits:
        line += (
            "; by formula that is too much for this device: lower resolution or rank, or train attention alone "
            "(parameter_set)"
        )
    chosen = replace(settings, micro_batch=plan.micro_batch, gradient_checkpointing=checkpointing)
    return replace(chosen, offload=offload, weights=weights), line


def rows_of(settings: SubjectSettings, priors: int) -> int:
    """Images in one step, priors included."""
    return settings.batch_size * (2 if priors and settings.prior_weight else 1)


def split_of(settings: SubjectSettings, inputs: AutoInputs) -> BatchSplit:
    """How a step of these settings fits into `inputs.free_bytes`; batch_size and resolution are chosen already."""
    phases = phase_memory(settings, inputs)
    trained = trained_bytes(inputs.trainable_parameters, settings.optimizer)
    image = inputs.costs.training(settings.resolution, inputs.is_half, adapted_parts(settings))
    options = MemoryOptions(
        settings.gradient_checkpointing,
        settings.micro_batch,
        settings.offload,
        "full" if settings.tuning == "full" else settings.weights,
        inputs.offloadable_bytes,
        inputs.denoiser_bytes * FLOAT8_SAVES if inputs.is_half else 0.0,
    )

    def peak_elsewhere(micro_batch: int, offload: bool) -> float:
        return phases.peak(micro_batch, offload * inputs.offloadable_bytes, offload * inputs.text_encoder_bytes)

    return split_batch(
        rows_of(settings, inputs.priors),
        image.beside(inputs.text_activation_bytes, autocast_bytes(inputs.trainable_parameters, inputs.is_half)),
        None if inputs.free_bytes is None else int(inputs.free_bytes - trained),
        options,
        peak_elsewhere,
    )


def phase_memory(settings: SubjectSettings, inputs: AutoInputs) -> PhaseMemory:
    """Bytes beyond the weights in the phases other than the training step; the resolution is chosen already."""
    side, costs = settings.resolution, inputs.costs
    encoding = encoding_batch(side) * costs.encoding(side, inputs.vae_itemsize)
    optimizer = EMA_TEMPORARY.get(settings.optimizer, 0) * inputs.trainable_parameters
    if not inputs.samples_images:
        return PhaseMemory(encoding, optimizer=optimizer)
    copied = autocast_bytes(inputs.trainable_parameters, inputs.is_half)
    return PhaseMemory(
        encoding,
        2 * costs.sampling(side, inputs.is_half, adapted_parts(settings)),
        costs.decoding(side, inputs.vae_itemsize),
        inputs.validator_bytes,
        copied if settings.tuning == "full" else 0.0,  # adapters sample in fp32
        optimizer,
    )


def encoding_batch(resolution: int) -> int:
    """Images that are encoded together: four of 512 px, or as many pixels."""
    return max(1, min(4, 4 * 512 * 512 // resolution**2))
