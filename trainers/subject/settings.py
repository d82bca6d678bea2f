"""The settings of subject training: the groups it is made of, and its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

from ...core.errors import FewShotError
from ...core.settings import Range, setting
from ...models.public_names import DENOISER_ROOT, TEXT_ENCODER_RATE, TEXT_ENCODER_ROOT
from ..settings.training import AUTO_TOKEN, AdapterSettings, DenoisingSettings, LearnedToken, ValidationSettings

# Parts whose adapters may have their own rank and alpha.
RANKED, SIZES = frozenset({"cross", "self", "feed_forward", "text"}), ("rank", "alpha")


def _rank_of(what: str) -> Any:
    help = f"Rank of the adapter in {what}. 0 takes rank."
    return setting(0, help, Range(1, 256, 1), auto=0, advanced=True)


def _alpha_of(what: str) -> Any:
    help = f"Alpha in {what}. 0 takes alpha where the rank is rank, else what scales it alike."
    return setting(0.0, help, Range(1e-3, 1024.0, 1.0), auto=0, advanced=True)


@dataclass(frozen=True, kw_only=True)
class PartSizes(AdapterSettings):
    """Ranks and alphas of parts of the adapter, for those that differ."""

    cross_rank: int = _rank_of("cross-attention")
    cross_alpha: float = _alpha_of("cross-attention")
    self_rank: int = _rank_of("self-attention")
    self_alpha: float = _alpha_of("self-attention")
    feed_forward_rank: int = _rank_of("the feed-forward layers")
    feed_forward_alpha: float = _alpha_of("the feed-forward layers")
    text_rank: int = _rank_of("the text encoder")
    text_alpha: float = _alpha_of("the text encoder")

    def own_size(self, name: str) -> tuple[int, float]:
        sizes = {
            "cross": (self.cross_rank, self.cross_alpha),
            "cross_kv": (self.cross_rank, self.cross_alpha),
            "self": (self.self_rank, self.self_alpha),
            "feed_forward": (self.feed_forward_rank, self.feed_forward_alpha),
            "text": (self.text_rank, self.text_alpha),
        }
        return sizes[name]


@dataclass(frozen=True, kw_only=True)
class SubjectSettings(PartSizes, LearnedToken, ValidationSettings, DenoisingSettings):
    """Of subject training: L_ref + prior_weight * L_prior + local_weight * L_local on low-rank adapters.

    L_ref and L_prior are DreamBooth's (Ruiz et al. 2023), L_local ties attention to masks (`losses.local_loss`).
    """

    ORDER: ClassVar[tuple[str, ...]] = tuple(
        "steps learning_rate rank alpha batch_size prior_weight local_weight resolution parameter_set tuning "
        "cross_rank cross_alpha self_rank self_alpha feed_forward_rank feed_forward_alpha text_rank "
        "text_alpha subject_block extract_rank token token_vectors token_start token_learning_rate "
        "text_encoder text_learning_rate seed schedule warmup optimizer weight_decay max_gradient_norm "
        "min_snr_gamma background_weight objective dco_beta caption_dropout composite_share "
        "noise_offset micro_batch gradient_checkpointing offload weights save_every log_every preview_every "
        "preview_prompt validate_every patience validation_pictures keep_validated validation_prompts "
        "preservation_weight".split()
    )

    LATER: ClassVar[frozenset[str]] = frozenset({"preservation_weight"})
    FORMER: ClassVar[Mapping[str, Any]] = MappingProxyType({"local_attention": "content"})

    token: str = setting(
        AUTO_TOKEN,
        "Learn the identifier as a word of its own: freely, or only its direction, at the length of ordinary words. It "
        "is saved with the LoRA and as an embedding. auto learns it freely where it is one token of the text encoder, "
        "as sks is, which a LoRA file carries; none leaves it as it is.",
        (AUTO_TOKEN, "none", "free", "direction"),
    )
    prior_weight: float = setting(
        1.0,
        "Weight of the prior pictures' loss, which keeps the class as it was. 0 leaves them out.",
        Range(0.0, 10.0, 0.1),
    )
    local_weight: float = setting(
        -1.0,
        "Weight of the attention loss, which ties the subject's words to its mask. It rises over the first tenth of "
        "the steps, and needs masks. -1 takes 0.05 where every picture has a mask and a caption that says more than "
        "the subject; 0 is off.",
        Range(0.0, 10.0, 0.01),
        auto=-1,
    )
    tuning: str = setting(
        "low_rank",
        "How they are trained: by a low-rank adapter; by one in a block of its own (subject_block), so that subjects "
        "trained apart can be added; or in full, which with all parameters gives a checkpoint and a BASE.",
        ("low_rank", "orthogonal", "full"),
        advanced=True,
    )
    subject_block: int = setting(
        0,
        "With tuning orthogonal: the block that this subject is learned in. Subjects that are to be added need "
        "different blocks and the same rank.",
        Range(0, 1000, 1),
        advanced=True,
    )
    extract_rank: int = setting(
        0,
        "With tuning full of all parameters: also gives a low-rank adapter of what was learned, of this rank; how much "
        "of it the adapter misses is logged. 0 gives none.",
        Range(0, 512, 1),
        advanced=True,
    )
    text_encoder: bool = setting(False, "Give the text encoder's attention an adapter too.")
    text_learning_rate: float = setting(
        0.0,
        "Step size of the text encoder's adapter. 0 takes half of learning_rate, with two encoders a twentieth.",
        Range(1e-8, 1.0, 1e-6),
        auto=0,
        advanced=True,
    )
    min_snr_gamma: float = setting(
        0.0,
        "Caps the weight of little-noised steps (min-SNR; 5 is usual). 0 is off: fine texture then counts in full.",
        Range(0.0, 100.0, 0.5),
        advanced=True,
    )
    background_weight: float = setting(
        1.0,
        "Weight of what lies outside the subject's mask. 1 does not use masks.",
        Range(0.0, 1.0, 0.05),
        advanced=True,
    )
    objective: str = setting(
        "mse",
        "What is minimised on the reference pictures: the denoising error, or DCO, which asks for less error than the "
        "base in the place of prior pictures, for a third more time.",
        ("mse", "dco"),
        advanced=True,
    )
    dco_beta: float = setting(
        1000.0,
        "How closely DCO stays with the base; 1000 to 2000 are usual, lower is freer.",
        Range(1.0, 100_000.0, 100.0),
        advanced=True,
    )
    caption_dropout: float = setting(
        0.0,
        "Share of the pictures that are learned without their caption; 0.1 is usual where the whole denoiser learns.",
        Range(0.0, 1.0, 0.05),
        advanced=True,
    )
    composite_share: float = setting(
        0.25,
        "With several subjects: share of the pictures that show more than one of them, where the set has such.",
        Range(0.0, 1.0, 0.05),
        advanced=True,
    )
    noise_offset: float = setting(
        0.0,
        "Adds noise that is constant over each picture; 0.05 to 0.1 for very dark or flat styles.",
        Range(0.0, 1.0, 0.01),
        advanced=True,
    )

    preservation_weight: float = setting(
        0.0,
        "Weight of differential output preservation, which needs no prior pictures: told of the class alone, the "
        "denoiser shall go on predicting what the base does, on the noisy pictures that it learns from. 1 is usual; it "
        "takes about twice the time. 0 is off.",
        Range(0.0, 10.0, 0.1),
        advanced=True,
    )

    def rows(self, priors: int) -> int:
        return self.batch_size * (1 + bool(priors and self.prior_weight) + bool(self.preservation_weight))

    @property
    def sets(self) -> tuple[str, ...]:
        return (*super().sets, "text") if self.text_encoder else super().sets

    @property
    def in_full(self) -> bool:
        return self.tuning == "full"

    @property
    def extracted_rank(self) -> int:
        return self.extract_rank

    @property
    def block(self) -> int | None:
        return self.subject_block if self.tuning == "orthogonal" else None

    @property
    def reads_text(self) -> bool:
        return self.text_encoder or self.word is not None

    @property
    def rates(self) -> dict[str, float]:
        return {
            DENOISER_ROOT: self.learning_rate,
            TEXT_ENCODER_ROOT: self.text_learning_rate,
            "token": self.token_learning_rate,
        }

    @property
    def metadata(self) -> dict[str, Any]:
        return {
            TEXT_ENCODER_RATE: self.text_learning_rate if self.text_encoder else None,
            "ss_min_snr_gamma": self.min_snr_gamma or None,
            "ss_noise_offset": self.noise_offset or None,
            "ss_prior_loss_weight": self.prior_weight,
        }

    def check(self) -> None:
        if self.parameter_set == "none" and not self.reads_text:
            raise FewShotError("nothing would be trained: choose a parameter_set, text_encoder, or a token to learn.")
        if self.everything and not self.in_full:
            raise FewShotError(
                f"parameter_set all needs tuning full, and tuning is {self.tuning}: choose full, or attention_ff."
            )
        if self.extract_rank and not self.everything:
            raise FewShotError(
                f"extract_rank is {self.extract_rank}, which is for tuning full of all parameters: what is trained "
                "here is an adapter already. Set it to 0."
            )
        if self.in_full and self.weights == "float8":
            raise FewShotError(
                "weights in 8 bits cannot be trained in full: set weights to auto or tuning to low_rank."
            )
        super().check()
        defaults = {about.name: about.default for about in fields(self)}
        for name, why in self._idle():
            if (value := getattr(self, name)) != defaults[name]:
                raise FewShotError(
                    f"{name} is {value!r}, but does nothing: {why}. Set it to {defaults[name]!r}, or change that."
                )

    def _idle(self) -> Iterator[tuple[str, str]]:
        """The settings that do nothing beside the others, each with the reason."""
        ranked = {name.removesuffix("_kv") for name in self.sets if name == "text" or not self.in_full}
        parts = [(part, "that part has no low-rank adapter") for part in sorted(RANKED - ranked - {"text"})]
        if not self.text_encoder:
            parts.append(("text", "text_encoder is off"))
            yield "text_learning_rate", "text_encoder is off"
        yield from ((f"{part}_{what}", why) for part, why in parts for what in SIZES)
        if self.token == "none":
            yield from ((name, "token is none") for name in ("token_vectors", "token_start", "token_learning_rate"))
        if self.tuning != "orthogonal":
            yield "subject_block", f"tuning is {self.tuning}, not orthogonal"
        if self.objective != "dco":
            yield "dco_beta", f"objective is {self.objective}, not dco"
        if not self.validate_every:
            yield from ((name, "validate_every is 0") for name in ("patience", "keep_validated"))
