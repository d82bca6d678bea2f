"""The settings of relation training: the groups it is made of, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from ...core.errors import FewShotError
from ...core.settings import Range, setting
from ...models.public_names import DENOISER_ROOT
from ..settings.common import SCHEDULES, WARMUP_STABLE_DECAY
from ..settings.training import DenoisingSettings, LearnedToken


@dataclass(frozen=True, kw_only=True)
class RelationSettings(LearnedToken, DenoisingSettings):
    """Of relation training: a word is learned, the whole base stays as it is.

    The denoising loss with timesteps drawn by `focal`, and the steering loss, are ReVersion's (Huang et al. 2023).
    """

    angle: ClassVar[float] = 0.1  # what it begins as lies 75 to 95 degrees from what it becomes
    ORDER: ClassVar[tuple[str, ...]] = tuple(
        "steps batch_size resolution token token_vectors token_start token_learning_rate seed schedule warmup "
        "max_gradient_norm micro_batch gradient_checkpointing offload weights save_every log_every "
        "preview_every preview_prompt validate_every focal steering_weight steering_positives "
        "steering_temperature adversarial adversarial_weight adversarial_order discriminator_learning_rate "
        "high_noise_rank high_noise_learning_rate".split()
    )

    UNUSED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "learning_rate": 0.0, "rank": 16, "alpha": 0.0, "prior_weight": 1.0, "local_weight": 0.0,
            "parameter_set": "none", "tuning": "low_rank", "cross_rank": 0, "cross_alpha": 0.0, "self_rank": 0,
            "self_alpha": 0.0, "feed_forward_rank": 0, "feed_forward_alpha": 0.0, "text_rank": 0, "text_alpha": 0.0,
            "subject_block": 0, "extract_rank": 0, "text_encoder": False, "text_learning_rate": 0.0,
            "optimizer": "adamw", "weight_decay": 0.0001, "min_snr_gamma": 0.0, "background_weight": 1.0,
            "local_attention": "content", "objective": "mse", "dco_beta": 1000.0, "caption_dropout": 0.0,
            "composite_share": 0.25, "noise_offset": 0.0, "patience": 0, "validation_pictures": 8,
            "validation_prompts": "",
        }
    )  # fmt: skip

    steps: int = setting(1000, "Number of optimiser steps.", Range(1, 100_000, 10))
    schedule: str = setting(
        WARMUP_STABLE_DECAY,
        "How the learning rate goes on after warm-up; warmup_stable_decay is constant, in which a word finds its way "
        "out of what it began as, and falls to zero over the last third of the steps.",
        SCHEDULES,
        advanced=True,
    )
    token: str = setting(
        "direction",
        "What is learned of the word: only its direction, at the length of usual words, so that it does not drown the "
        "two things beside it; or direction and length (free, as in ReVersion).",
        ("direction", "free"),
    )
    token_vectors: int = setting(1, "How many tokens the learned word takes in a prompt.", Range(1, 16, 1))
    token_start: str = setting("and", "The word whose vectors the learned word begins with.")
    focal: float = setting(
        0.5,
        "How much more often noisy timesteps are drawn, in which a picture's layout is decided: 0 draws all alike, 1 "
        "draws the noisiest twice as often.",
        Range(0.0, 1.0, 0.05),
    )
    steering_weight: float = setting(
        0.01,
        "Weight of the steering loss, which keeps the word nearer to prepositions than to the captions' other words. "
        "0 is off.",
        Range(0.0, 10.0, 0.005),
    )
    steering_positives: int = setting(
        4, "Prepositions that the steering loss draws for each picture.", Range(1, 56, 1), advanced=True
    )
    steering_temperature: float = setting(
        0.07, "What the steering loss divides cosines by.", Range(0.01, 1.0, 0.01), advanced=True
    )
    adversarial: str = setting(
        "off",
        "Adds a discriminator of latents: sensible compares the pictures' latents with the predicted ones, both noised "
        "alike.",
        ("off", "sensible"),
        advanced=True,
    )
    adversarial_weight: float = setting(0.02, "Weight of the adversarial loss.", Range(0.0, 10.0, 0.01), advanced=True)
    adversarial_order: str = setting(
        "joint",
        "With a discriminator: from a fifth of the steps on beside the other losses, or in sequence, alone in the last "
        "two fifths.",
        ("joint", "sequence"),
        advanced=True,
    )
    discriminator_learning_rate: float = setting(
        2e-4, "Step size of the discriminator.", Range(1e-8, 1.0, 1e-5), advanced=True
    )
    high_noise_rank: int = setting(
        0,
        "Rank of a low-rank adapter of the cross-attention's keys and values that is learned with the word and counts "
        "in the noisier half of the timesteps only, where the layout is decided; 4 is usual. 0 learns the word alone.",
        Range(0, 64, 1),
        advanced=True,
    )
    high_noise_learning_rate: float = setting(
        0.0,
        "Step size of that adapter; 0 takes what suits a LoRA on this base.",
        Range(1e-8, 1.0, 1e-5),
        auto=0,
        advanced=True,
    )
    validate_every: int = setting(
        -1,
        "Steps between readings of how much of the pictures' error the word takes away, so that pictures without a "
        "common relation are told. -1 takes as many as a tenth of the training's time pays for, 3 to 10; 0 is off.",
        Range(0, 100_000, 10),
        auto=-1,
        advanced=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.token_start.strip():
            raise FewShotError("token_start is empty; name the word that the learned one begins with, such as 'and'.")

    @property
    def rates(self) -> dict[str, float]:
        """The learned word's, and the adapter's and the discriminator's where there is one."""
        own = {"token": self.token_learning_rate}
        if self.high_noise_rank:
            own[DENOISER_ROOT] = self.high_noise_learning_rate
        return own if self.adversarial == "off" else own | {"discriminator": self.discriminator_learning_rate}

    @property
    def idle(self) -> list[str]:
        """What was set and changes nothing, a line each: what belongs to a loss that is off."""
        losses = {
            "adversarial is off": ("adversarial_weight", "adversarial_order", "discriminator_learning_rate"),
            "steering_weight is 0": ("steering_positives", "steering_temperature"),
            "high_noise_rank is 0": ("high_noise_learning_rate",),
        }
        off = {
            "adversarial is off": self.adversarial == "off",
            "steering_weight is 0": self.steering_weight == 0,
            "high_noise_rank is 0": self.high_noise_rank == 0,
        }
        default = type(self)()
        return [
            f"{name} = {getattr(self, name)} changes nothing, because {why}"
            for why, names in losses.items()
            for name in names
            if off[why] and getattr(self, name) != getattr(default, name)
        ]
