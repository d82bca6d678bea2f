"""The settings of training: help, range and default of each stand here once; widgets and docs are made from them.

Nothing heavy is imported here, so that a graph's schemas can be built from these classes at no cost.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from .errors import FewShotError

S = TypeVar("S", bound="Settings")

PARAMETER_SETS = ("attention", "cross", "cross_kv", "self", "attention_ff", "feed_forward", "all", "none")


def _rank_of(what: str) -> Any:
    help = f"Rank of the adapter in {what}. 0 takes rank."
    return setting(0, help, min=1, max=256, step=1, advanced=True, auto=0)


def _alpha_of(what: str) -> Any:
    help = f"Alpha in {what}. 0 takes alpha where the rank is rank, else what scales it alike."
    return setting(0.0, help, min=1e-3, max=1024.0, step=1.0, advanced=True, auto=0)


def setting(
    default: Any,
    help: str,
    *,
    min: float | None = None,
    max: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] | None = None,
    advanced: bool = False,
    matters: bool = True,
    auto: float | None = None,
) -> Any:
    """A dataclass field with what a widget needs.

    Args:
        min, max, step: the range of a number; both ends are allowed.
        advanced: hidden until asked for.
        matters: whether the value changes what is learned, and so belongs to the content key.
        auto: the value that means "choose for me" (it need not lie in the range).
    """
    about = dict(help=help, min=min, max=max, step=step, choices=choices, advanced=advanced, matters=matters, auto=auto)
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all trainers' settings can do: be checked, be read from a mapping, give a key."""

    UNUSED: ClassVar[frozenset[str]] = frozenset()
    """settings that a method shares with its base class by name only: they keep their default and have no widget"""

    def __post_init__(self) -> None:
        for about in fields(self):
            _check(about, getattr(self, about.name))
            if about.name in self.UNUSED and getattr(self, about.name) != about.default:
                raise FewShotError(f"{about.name} is no setting of this training; leave it out.")

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any]) -> S:
        """Settings from names and values; the word "auto" stands for the value that means it.

        Raises:
            FewShotError: a name is unknown (the nearest known one is named) or a value is out of its range.
        """
        known = {about.name: about for about in fields(cls) if about.name not in cls.UNUSED}
        refuse_unknown(values, known, "setting")
        return cls(**{name: _converted(known[name], value) for name, value in values.items()})

    def key(self) -> str:
        """Content key of the settings that change what is learned."""
        from .values import content_key

        kept = {about.name: getattr(self, about.name) for about in fields(self) if about.metadata["matters"]}
        return content_key(type(self).__name__, kept)

    def is_auto(self, name: str) -> bool:
        """Whether the setting's value is left to be chosen."""
        auto = next(about for about in fields(self) if about.name == name).metadata["auto"]
        return auto is not None and getattr(self, name) == auto


def refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Raise a FewShotError for the first name in `given` that is not in `known`, naming the nearest known one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}."
            raise FewShotError(f"there is no {what} {name!r}; {hint}")


def _converted(about: Field, value: Any) -> Any:
    """`value` as the field's type where nothing is lost by it."""
    auto = about.metadata["auto"]
    if value == "auto" and auto is not None:
        return auto
    kind = type(about.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _check(about: Field, value: Any) -> None:
    name, says = about.name, about.metadata
    assert about.default is not MISSING
    kind = type(about.default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise FewShotError(f"{name} is {value!r}; it must be {_KINDS[kind]}.")
    if says["choices"] and value not in says["choices"]:
        near = difflib.get_close_matches(str(value), says["choices"], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FewShotError(f"{name} is {value!r}; it must be one of {', '.join(says['choices'])}.{hint}")
    if kind in (int, float):
        _check_range(name, value, says)


def _check_range(name: str, value: float, says: Mapping[str, Any]) -> None:
    if says["auto"] is not None and value == says["auto"]:
        return
    low, high = says["min"], says["max"]
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        auto = f", or {says['auto']:g} to have it chosen" if says["auto"] is not None else ""
        raise FewShotError(f"{name} is {value}; it must lie between {low:g} and {high:g}{auto}.")


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class SubjectSettings(Settings):
    """Of subject training: L_ref + prior_weight * L_prior + local_weight * L_local on low-rank adapters.

    L_ref and L_prior are DreamBooth's (Ruiz et al. 2023), L_local ties attention to masks (`losses.local_loss`).
    """

    steps: int = setting(
        -1,
        "Number of optimiser steps. -1 chooses from the number of reference pictures.",
        min=1,
        max=100_000,
        step=10,
        auto=-1,
    )
    learning_rate: float = setting(
        0.0,
        "Step size of the denoiser's adapter. 0 chooses from the denoiser's size: 1e-4 for SD 1.x and SDXL, more for "
        "smaller ones.",
        min=1e-8,
        max=1.0,
        step=1e-5,
        auto=0,
    )
    rank: int = setting(16, "Rank of the low-rank adapter: how much it can hold.", min=1, max=256, step=1)
    alpha: float = setting(
        0.0,
        "The adapter is scaled by alpha / rank. 0 takes alpha = rank.",
        min=1e-3,
        max=1024.0,
        step=1.0,
        advanced=True,
        auto=0,
    )
    batch_size: int = setting(
        0,
        "Reference pictures in one step; as many prior pictures come on top. 0 chooses from the denoiser's size.",
        min=1,
        max=256,
        step=1,
        auto=0,
    )
    prior_weight: float = setting(
        1.0,
        "Weight of the prior pictures' loss, which keeps the class as it was. 0 leaves them out.",
        min=0.0,
        max=10.0,
        step=0.1,
    )
    local_weight: float = setting(
        0.0,
        "Weight of the attention loss, which ties the subject's words to its mask, so that the surroundings are not "
        "learned with it; 0.05 is usual. It rises over the first tenth of the steps, and needs masks. 0 is off.",
        min=0.0,
        max=10.0,
        step=0.01,
    )
    resolution: int = setting(
        0,
        "Side in pixels to which pictures are cropped and resized. 0 takes the base model's own.",
        min=16,
        max=4096,
        step=8,
        auto=0,
    )
    parameter_set: str = setting(
        "attention_ff",
        "Which layers of the denoiser are trained: all attention, cross-attention, its keys and values only, "
        "self-attention, all attention and the feed-forward layers, those only, all parameters (with tuning full), or "
        "none.",
        choices=PARAMETER_SETS,
    )
    tuning: str = setting(
        "low_rank",
        "How they are trained: by a low-rank adapter; by one in a block of its own (subject_block), so that subjects "
        "trained apart can be added; or in full, which with all parameters gives a checkpoint and a BASE.",
        choices=("low_rank", "orthogonal", "full"),
        advanced=True,
    )
    cross_rank: int = _rank_of("cross-attention")
    cross_alpha: float = _alpha_of("cross-attention")
    self_rank: int = _rank_of("self-attention")
    self_alpha: float = _alpha_of("self-attention")
    feed_forward_rank: int = _rank_of("the feed-forward layers")
    feed_forward_alpha: float = _alpha_of("the feed-forward layers")
    text_rank: int = _rank_of("the text encoder")
    text_alpha: float = _alpha_of("the text encoder")
    subject_block: int = setting(
        0,
        "With tuning orthogonal: the block that this subject is learned in. Subjects that are to be added need "
        "different blocks and the same rank.",
        min=0,
        max=1000,
        step=1,
        advanced=True,
    )
    extract_rank: int = setting(
        0,
        "With tuning full of all parameters: also gives a low-rank adapter of what was learned, of this rank; how much "
        "of it the adapter misses is logged. 0 gives none.",
        min=0,
        max=512,
        step=1,
        advanced=True,
    )
    token: str = setting(
        "none",
        "Learn the identifier as a word of its own: freely, or only its direction, which keeps the rest of the prompt "
        "readable. It is saved with the LoRA and as an embedding.",
        choices=("none", "free", "direction"),
    )
    token_vectors: int = setting(
        1, "How many tokens the learned identifier takes in a prompt.", min=1, max=16, step=1, advanced=True
    )
    token_start: str = setting(
        "", "The word whose vectors the learned identifier begins with. Empty takes the class noun.", advanced=True
    )
    token_learning_rate: float = setting(
        0.0,
        "Step size of the learned identifier; of a direction its angle in radians. 0 chooses: 0.01 for a direction, "
        "else 0.07 of the vocabulary's usual number, which is 1e-3 for SD 1.x.",
        min=1e-8,
        max=1.0,
        step=1e-4,
        advanced=True,
        auto=0,
    )
    text_encoder: bool = setting(False, "Give the text encoder's attention an adapter too.")
    text_learning_rate: float = setting(
        0.0,
        "Step size of the text encoder's adapter. 0 takes half of learning_rate, with two encoders a twentieth.",
        min=1e-8,
        max=1.0,
        step=1e-6,
        advanced=True,
        auto=0,
    )
    seed: int = setting(0, "All random numbers follow from it.", min=0, max=2**63 - 1, step=1)
    schedule: str = setting(
        "constant",
        "How the learning rate goes on after warm-up.",
        choices=("constant", "cosine", "linear"),
        advanced=True,
    )
    warmup: float = setting(
        0.03,
        "Share of the steps over which the learning rate rises from zero.",
        min=0.0,
        max=0.5,
        step=0.01,
        advanced=True,
    )
    optimizer: str = setting(
        "adamw",
        "The optimiser: AdamW; AdamW with 8-bit moments (CUDA, needs bitsandbytes); Prodigy, which finds the step size "
        "and takes learning_rate as a factor; or schedule-free AdamW, which averages instead of a schedule.",
        choices=("adamw", "adamw_8bit", "prodigy", "schedule_free"),
        advanced=True,
    )
    weight_decay: float = setting(1e-4, "The optimiser's weight decay.", min=0.0, max=1.0, step=1e-4, advanced=True)
    max_gradient_norm: float = setting(
        1.0, "Longer gradients are scaled down to this norm.", min=1e-6, max=1e6, step=0.1, advanced=True
    )
    min_snr_gamma: float = setting(
        0.0,
        "Caps the weight of little-noised steps (min-SNR; 5 is usual). 0 is off: fine texture then counts in full.",
        min=0.0,
        max=100.0,
        step=0.5,
        advanced=True,
    )
    background_weight: float = setting(
        1.0,
        "Weight of what lies outside the subject's mask. 1 does not use masks.",
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
    )
    local_attention: str = setting(
        "content",
        "How the attention loss reads attention: as its share among the caption's words, balanced by area and weighted "
        "by the picture's signal; or plainly, divided by its maximum.",
        choices=("content", "plain"),
        advanced=True,
    )
    objective: str = setting(
        "mse",
        "What is minimised on the reference pictures: the denoising error, or DCO, which asks for less error than the "
        "base and holds the class without prior pictures, for a third more time.",
        choices=("mse", "dco"),
        advanced=True,
    )
    dco_beta: float = setting(
        1000.0,
        "How closely DCO stays with the base; 1000 to 2000 are usual, lower is freer.",
        min=1.0,
        max=100_000.0,
        step=100.0,
        advanced=True,
    )
    caption_dropout: float = setting(
        0.0,
        "Share of the pictures that are learned without their caption; 0.1 is usual where the whole denoiser learns.",
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
    )
    composite_share: float = setting(
        0.25,
        "With several subjects: share of the pictures that show more than one of them, where the set has such.",
        min=0.0,
        max=1.0,
        step=0.05,
        advanced=True,
    )
    noise_offset: float = setting(
        0.0,
        "Adds noise that is constant over each picture; 0.05 to 0.1 for very dark or flat styles.",
        min=0.0,
        max=1.0,
        step=0.01,
        advanced=True,
    )
    micro_batch: int = setting(
        0,
        "Pictures in one pass of the denoiser; fewer take less memory, the result is the same. 0 chooses from free "
        "memory.",
        min=1,
        max=512,
        step=1,
        advanced=True,
        matters=False,
        auto=0,
    )
    gradient_checkpointing: str = setting(
        "auto",
        "Computes activations twice instead of keeping them: less memory, about 1.4 times as slow.",
        choices=("auto", "on", "off"),
        advanced=True,
        matters=False,
    )
    offload: str = setting(
        "auto",
        "Text encoders and autoencoder wait in the host's memory where they are not trained: less GPU memory, previews "
        "and validations take a little longer.",
        choices=("auto", "on", "off"),
        advanced=True,
        matters=False,
    )
    weights: str = setting(
        "auto",
        "How the frozen denoiser is kept: in the base's compute type, or in 8 bits, which saves half of its memory and "
        "changes the result a little. auto takes 8 bits only where nothing else fits.",
        choices=("auto", "full", "float8"),
        advanced=True,
    )
    save_every: int = setting(
        100,
        "Steps between checkpoints, from which a cut run goes on.",
        min=1,
        max=100_000,
        step=10,
        advanced=True,
        matters=False,
    )
    log_every: int = setting(
        10, "Steps between lines of log.jsonl.", min=1, max=10_000, step=1, advanced=True, matters=False
    )
    preview_every: int = setting(
        0, "Steps between preview pictures. 0 is off.", min=0, max=100_000, step=10, advanced=True, matters=False
    )
    preview_prompt: str = setting(
        "", "Prompt of the previews. Empty takes the trigger phrase.", advanced=True, matters=False
    )
    validate_every: int = setting(
        -1,
        "Steps between validations on held-out prompts, the best of which is returned. -1 takes as many as a quarter "
        "of the training's time pays for, 3 to 12; 0 is off, as it is without a model that validates.",
        min=0,
        max=100_000,
        step=10,
        advanced=True,
        auto=-1,
    )
    patience: int = setting(
        0,
        "Ends the training when that many validations in a row were not better than the best. 0 trains all steps.",
        min=0,
        max=100,
        step=1,
        advanced=True,
    )
    validation_pictures: int = setting(8, "Pictures that each validation draws.", min=2, max=64, step=1, advanced=True)
    keep_validated: bool = setting(
        False,
        "Keep the LoRA of every validated step in the run's folder, to compare them.",
        advanced=True,
        matters=False,
    )
    validation_prompts: str = setting(
        "",
        "Prompts of the validation, separated by |, with {trigger} for the subject. Empty takes new places and changes "
        "that no caption names.",
        advanced=True,
    )

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn while training, even where nothing validates."""
        return self.preview_every > 0

    @property
    def denoiser_rates(self) -> tuple[str, ...]:
        """The names of the denoiser's step sizes, which follow from the base's size where they are left open."""
        return ("learning_rate",)

    @property
    def rate_share(self) -> float:
        """What learning_rate left open means, as a share of the usual one."""
        return 1.0

    @property
    def reads_text(self) -> bool:
        """Whether prompts are encoded anew in each step, because the text encoders or their words are trained."""
        return self.text_encoder or self.token != "none"

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each group of parameters, by the beginning of their names."""
        return {
            "unet": self.learning_rate,
            "text_encoder": self.text_learning_rate,
            "token": self.token_learning_rate,
        }
