"""What the engine knows of every training's settings, and the groups that only some trainings have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ...core.errors import FewShotError
from ...core.settings import Range, setting
from ...models.public_names import PARAMETER_SETS
from .common import Checkpointing, MemorySettings, Optimization, Previews

# The sets that a parameter_set consists of, where it is not one itself.
PARTS: Mapping[str, tuple[str, ...]] = {
    "attention": ("cross", "self"),
    "attention_ff": ("cross", "self", "feed_forward"),
    "none": (),
}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Optimization, MemorySettings, Checkpointing, Previews):
    """Of any training. A group that not every training has is None where it has none."""

    resolution: int = setting(
        0,
        "Side in pixels to which pictures are cropped and resized. 0 takes the base model's own.",
        Range(16, 4096, 8),
        auto=0,
    )

    @abstractmethod
    def rows(self, priors: int) -> int:
        """Pictures in one step, where the set has `priors` prior pictures."""

    @property
    def adapter(self) -> AdapterSettings | None:
        """The adapter that is trained over the whole training."""
        return None

    @property
    def word(self) -> LearnedToken | None:
        """The word that is learned."""
        return None

    @property
    def validation(self) -> ValidationSettings | None:
        """The validation on held-out prompts."""
        return None

    @property
    def validates(self) -> bool:
        """Whether models that see pictures are of use to it."""
        return False

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn while training, even where nothing validates."""
        return self.preview_every > 0

    @property
    def reads_text(self) -> bool:
        """Whether prompts are encoded anew in each step, because the text encoders or their words are trained."""
        return self.word is not None

    @property
    def everything(self) -> bool:
        """Whether the denoiser itself is trained, not an adapter of it."""
        return False

    @property
    def extracted_rank(self) -> int:
        """Rank of the adapter that is made of a denoiser trained in full; 0 makes none."""
        return 0

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What a LoRA's metadata says of settings that only this training has, by the names other tools read."""
        return {}

    def check(self) -> None:
        """Raise FewShotError where settings of what is trained contradict each other."""


@dataclass(frozen=True, kw_only=True)
class DenoisingSettings(TrainingSettings):
    """Of a training on noised pictures of a set."""

    batch_size: int = setting(
        0,
        "Reference pictures in one step; as many prior pictures come on top. 0 chooses from the denoiser's size.",
        Range(1, 256, 1),
        auto=0,
    )

    def rows(self, priors: int) -> int:
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class AdapterSettings(TrainingSettings):
    """Of a training of layers of the denoiser, by an adapter of them or in full."""

    learning_rate: float = setting(
        0.0,
        "Step size of the denoiser's adapter. 0 chooses from the denoiser's size: 1e-4 for SD 1.x and SDXL, more for "
        "smaller ones.",
        Range(1e-8, 1.0, 1e-5),
        auto=0,
    )
    rank: int = setting(16, "Rank of the low-rank adapter: how much it can hold.", Range(1, 256, 1))
    alpha: float = setting(
        0.0,
        "The adapter is scaled by alpha / rank. 0 takes alpha = rank.",
        Range(1e-3, 1024.0, 1.0),
        auto=0,
        advanced=True,
    )
    parameter_set: str = setting(
        "attention_ff",
        "Which layers of the denoiser are trained: all attention, cross-attention, its keys and values only, "
        "self-attention, all attention and the feed-forward layers, those only, all parameters (with tuning full), or "
        "none.",
        PARAMETER_SETS,
    )
    optimizer: str = setting(
        "adamw",
        "The optimiser: AdamW; AdamW with 8-bit moments (CUDA, needs bitsandbytes); Prodigy, which finds the step size "
        "and takes learning_rate as a factor; or schedule-free AdamW, which averages instead of a schedule.",
        ("adamw", "adamw_8bit", "prodigy", "schedule_free"),
        advanced=True,
    )
    weight_decay: float = setting(1e-4, "The optimiser's weight decay.", Range(0.0, 1.0, 1e-4), advanced=True)

    @property
    def adapter(self) -> AdapterSettings:
        return self

    @property
    def optimizer_name(self) -> str:
        return self.optimizer

    @property
    def decay(self) -> float:
        return self.weight_decay

    @property
    def sets(self) -> tuple[str, ...]:
        """The parameter sets that are trained, each with a size of its own."""
        return PARTS.get(self.parameter_set, (self.parameter_set,))

    @property
    def everything(self) -> bool:
        return self.parameter_set == "all"

    @property
    def in_full(self) -> bool:
        """Whether weights themselves are trained, and not an adapter of them."""
        return False

    @property
    def block(self) -> int | None:
        """The block that a set's adapter is confined to."""
        return None

    @property
    def rate_share(self) -> float:
        """What learning_rate left open means, as a share of the usual one."""
        return 1.0

    def own_size(self, name: str) -> tuple[int, float]:
        """Rank and alpha that a set has of its own; 0 where it takes the usual ones."""
        return 0, 0.0

    def size_of(self, name: str) -> tuple[int, float]:
        """Rank and alpha of a set's adapter; an alpha left open is the rank."""
        own_rank, own_alpha = self.own_size(name)
        rank = own_rank or self.rank
        return rank, own_alpha or (self.alpha or self.rank) * rank / self.rank

    def check(self) -> None:
        if self.optimizer == "schedule_free" and self.schedule != "constant":
            raise FewShotError(f"schedule_free needs the schedule constant, and schedule is {self.schedule}.")


AUTO_TOKEN = "auto"


@dataclass(frozen=True, kw_only=True)
class LearnedToken(TrainingSettings):
    """Of a training that learns a word. `angle` is the usual step of a direction, in radians."""

    angle: ClassVar[float] = 0.05

    token: str = setting(
        "none",
        "Learn the identifier as a word of its own: freely, or only its direction, at the length of ordinary "
        "words. It is saved with the LoRA and as an embedding.",
        ("none", "free", "direction"),
    )
    token_vectors: int = setting(
        1, "How many tokens the learned identifier takes in a prompt.", Range(1, 16, 1), advanced=True
    )
    token_start: str = setting(
        "", "The word whose vectors the learned identifier begins with. Empty takes the class noun.", advanced=True
    )
    token_learning_rate: float = setting(
        0.0,
        "Step size of the learned identifier; of a direction its angle in radians. 0 chooses: for a direction 0.05, of "
        "a relation 0.1, else 0.07 of the vocabulary's usual number, which is 1e-3 for SD 1.x.",
        Range(1e-8, 1.0, 1e-4),
        auto=0,
        advanced=True,
    )

    @property
    def word(self) -> LearnedToken | None:
        return self if self.token != "none" else None


@dataclass(frozen=True, kw_only=True)
class ValidationSettings(TrainingSettings):
    """Of a training that is validated on held-out prompts."""

    validate_every: int = setting(
        -1,
        "Steps between validations on held-out prompts, the best of which is returned. -1 takes as many as a quarter "
        "of the training's time pays for, 3 to 12; 0 is off, as it is without a model that validates.",
        Range(0, 100_000, 10),
        auto=-1,
        advanced=True,
    )
    patience: int = setting(
        0,
        "Ends the training when that many validations in a row were not better than the best. 0 trains all steps.",
        Range(0, 100, 1),
        advanced=True,
    )
    validation_pictures: int = setting(8, "Pictures that each validation draws.", Range(2, 64, 1), advanced=True)
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
    def validation(self) -> ValidationSettings:
        return self

    @property
    def validates(self) -> bool:
        return self.validate_every != 0

    @property
    def needing_validation(self) -> str:
        """The settings that do nothing without a model that validates, as words."""
        values = {"patience": self.patience, "keep_validated": self.keep_validated}
        return " and ".join(name for name, value in values.items() if value)
