"""What `auto` means: numbers in place of settings left open, each a function of the data or the base, with its reason.

Only how a step fits into memory depends on the machine, and that does not change what is learned; so settings left
open give the same content key and the same result everywhere, up to the precision that a machine computes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...core.errors import FewShotError
from ...core.settings import SubjectSettings
from ..targets import adapted
from .fit import AVERAGED, Split, Work, copied_bytes, split, trained_bytes
from .unet_costs import decoding_bytes, encoding_bytes, passing_bytes, step_of_picture

REFERENCE_SIZE = 860e6  # parameters of SD 1.x's UNet, for which the usual values were found
REFERENCE_CELLS = 64 * 64  # latent places of its pictures
REFERENCE_RATE = 1e-4
HIGHEST_RATE = 1e-3
MOST_PICTURES = 4  # a step averages over its noise well enough by then
STEPS_PER_REFERENCE = 120
FEWEST_STEPS, MOST_STEPS = 400, 1500
FLOAT8_SAVES = 0.48  # share of a half-precision denoiser that 8 bits save: all but norms, biases and scales


@dataclass(frozen=True)
class Facts:
    """What the choices depend on. `config` is the UNet's; `pixels` are along a latent cell's side; `free` bytes, if
    known.

    `references` are the different pictures of `concepts` subjects, without composites of them and each once, however
    many captions it has. `trained` counts the numbers that are trained; `denoiser` and `encoders` are bytes of frozen
    weights, the encoders' of those that may wait, `text` of these without the autoencoder. `autoencoder` is its
    configuration, and a number in it takes `wide` bytes. `reading` are the bytes that text encoders keep of a prompt
    in a step, `judges` those of models that validate; `draws` says whether pictures are drawn while training.
    `token_scale` is the vocabulary's usual number, if it is read.
    """

    references: int
    priors: int
    parameters: int
    config: Mapping[str, Any]
    pixels: int
    native_resolution: int
    text_encoders: int
    half: bool
    free: int | None
    autoencoder: Mapping[str, Any]
    wide: int
    concepts: int = 1
    trained: int = 0
    denoiser: float = 0.0
    encoders: float = 0.0
    text: float = 0.0
    reading: float = 0.0
    judges: float = 0.0
    draws: bool = True
    token_scale: float | None = 0.0


def resolve(settings: SubjectSettings, facts: Facts) -> tuple[SubjectSettings, tuple[str, ...]]:
    """The settings with a number for everything left open, and a line for each choice.

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

    choose("resolution", facts.native_resolution, "the base's own")
    _check_resolution(chosen.resolution, facts)
    for name in chosen.denoiser_rates:
        choose(name, *_denoiser_rate(chosen, facts))
    choose("alpha", float(chosen.rank), "equal to rank: the adapter is not scaled")
    if chosen.text_encoder:
        choose("text_learning_rate", *_text_rate(chosen, facts))
    if chosen.token == "free" and facts.token_scale is None:
        reasons.append(f"token_learning_rate: {TOKEN_SHARE:g} of the vocabulary's usual number, when that is read")
    elif chosen.token != "none":
        choose("token_learning_rate", *_token_rate(chosen, facts))
    choose("batch_size", batch_size(facts.parameters, (chosen.resolution // facts.pixels) ** 2), BATCH_RULE)
    several = f" of {facts.concepts} subjects" if facts.concepts > 1 else ""
    if chosen.is_auto("steps"):
        number = steps(facts.references, chosen.batch_size, facts.concepts, facts.parameters)
        choose("steps", number, f"{facts.references} references{several}; {STEPS_RULE}")
    chosen, why = _split(chosen, facts)
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


def _denoiser_rate(chosen: SubjectSettings, facts: Facts) -> tuple[float, str]:
    if chosen.optimizer == "prodigy":
        return 1.0, "a factor: Prodigy finds the step size"
    rate, why = learning_rate(facts.parameters), f"{facts.parameters / 1e6:.0f} M parameters; {RATE_RULE}"
    if chosen.rate_share != 1:
        rate, why = _rounded(rate * chosen.rate_share), f"{why}; {chosen.rate_share:g} of that with this method"
    if chosen.tuning != "full":
        return rate, why
    share = EVERYTHING_SHARE if chosen.parameter_set == "all" else FULL_SHARE
    return _rounded(rate * share), f"{why}; {share:g} of that where weights are trained in full"


def _text_rate(chosen: SubjectSettings, facts: Facts) -> tuple[float, str]:
    if chosen.optimizer == "prodigy":
        return 1.0, "a factor: Prodigy finds the step size"
    share = 0.5 if facts.text_encoders == 1 else 0.05
    if chosen.tuning == "full":  # the text encoder's adapter is low-rank all the same
        return _rounded(learning_rate(facts.parameters) * share), f"{share:g} of a low-rank learning_rate"
    return _rounded(chosen.learning_rate * share), f"{share:g} of learning_rate"


def _token_rate(chosen: SubjectSettings, facts: Facts) -> tuple[float, str]:
    if chosen.token == "direction":
        return TOKEN_ANGLE, "radians a step"
    assert facts.token_scale is not None
    rate = _rounded(TOKEN_SHARE * facts.token_scale)
    return rate, f"{TOKEN_SHARE:g} of the vocabulary's usual number, {facts.token_scale:.3g}"


RATE_RULE = "1e-4 at 860 M and above, rising as 1 / sqrt(parameters) to at most 1e-3"


def batch_size(parameters: int, cells: int) -> int:
    """As many references as take the work (parameters x latent places) of one SD 1.x picture of 512 x 512; 1 to 4."""
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


def _check_resolution(resolution: int, facts: Facts) -> None:
    multiple = facts.pixels * 2 ** (len(facts.config["block_out_channels"]) - 1)
    if resolution % multiple or resolution < multiple:
        near = max(multiple, round(resolution / multiple) * multiple)
        raise FewShotError(
            f"resolution is {resolution}, but this base takes multiples of {multiple} pixels. Use {near}, or 0 for its "
            f"own ({facts.native_resolution})."
        )


def _split(settings: SubjectSettings, facts: Facts) -> tuple[SubjectSettings, str]:
    rows = rows_of(settings, facts.priors)
    plan = split_of(settings, facts)
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
    """Pictures of one step."""
    return settings.batch_size * (2 if priors and settings.prior_weight else 1)


def split_of(settings: SubjectSettings, facts: Facts) -> Split:
    """How a step of these settings fits into `facts.free` bytes; batch_size and resolution are chosen already."""
    cells = settings.resolution // facts.pixels
    work = work_of(settings, facts)
    free = None if facts.free is None else int(facts.free - trained_bytes(facts.trained, settings.optimizer))
    return split(
        rows_of(settings, facts.priors),
        step_of_picture(facts.config, cells, cells, facts.half, adapted(settings)).beside(
            facts.reading, copied_bytes(facts.trained, facts.half)
        ),
        free,
        settings.gradient_checkpointing,
        settings.micro_batch,
        (settings.offload, facts.encoders),
        (
            "full" if settings.tuning == "full" else settings.weights,
            facts.denoiser * FLOAT8_SAVES if facts.half else 0.0,
        ),
        lambda micro_batch, waiting: work.most(micro_batch, waiting * facts.encoders, waiting * facts.text),
    )


def work_of(settings: SubjectSettings, facts: Facts) -> Work:
    """What the training takes beyond its weights where it does not step; the resolution is chosen already."""
    cells, pixels = settings.resolution // facts.pixels, settings.resolution**2
    encoding = encoded_at_once(settings.resolution) * encoding_bytes(facts.autoencoder, pixels, facts.wide)
    averaged = AVERAGED.get(settings.optimizer, 0) * facts.trained
    if not facts.draws:
        return Work(encoding, averaged=averaged)
    return Work(
        encoding,
        2 * passing_bytes(facts.config, cells, cells, facts.half, adapted(settings)),
        decoding_bytes(facts.autoencoder, pixels, facts.wide),
        facts.judges,
        copied_bytes(facts.trained, facts.half) if settings.tuning == "full" else 0.0,  # adapters draw in fp32
        averaged,
    )


def encoded_at_once(resolution: int) -> int:
    """Pictures that are encoded together: four of 512 px, or as many pixels."""
    return max(1, min(4, 4 * 512 * 512 // resolution**2))
