"""The settings of refinement: the groups it is made of, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from ...core.errors import FewShotError
from ...core.settings import Range, setting
from ...models.public_names import DENOISER_ROOT
from ..settings.training import AdapterSettings
from .methods.table import DEFAULT_METHOD, FORMER_NAMES, METHODS, RefinementMethod, readers

OTHERS, REFERENCES = "others", "references"
ROWS = 16
"""the most rows of the denoiser in one pass"""
EXPLORED = 0.3
"""what explore left open means: there a subject that was trained for twice too long draws three of four accessories
that it is asked for, and by itself one of twenty (on the pocket)"""


@dataclass(frozen=True, kw_only=True)
class RefinementSettings(AdapterSettings):
    """Of refinement by rewards: rounds of drawing pictures, rewarding them, and a few steps on what was drawn.

    The defaults are for one GPU of 24 GB and SD 1.x; InstructBooth's own are not published.
    """

    ORDER: ClassVar[tuple[str, ...]] = tuple(
        "steps learning_rate rank alpha resolution parameter_set seed schedule warmup optimizer weight_decay "
        "max_gradient_norm micro_batch gradient_checkpointing offload weights save_every log_every "
        "preview_every preview_prompt patience method prompts_per_round group updates trained_steps "
        "sampling_steps guidance kl_weight subject_floor diversity_floor held_out_floor guard_every "
        "guard_prompts eta explore skip_last clip_range advantage_clip statistics statistics_from nft_beta "
        "pair_beta pair_passes pair_with".split()
    )

    FORMER_CHOICES: ClassVar[Mapping[str, Mapping[str, str]]] = MappingProxyType({"method": FORMER_NAMES})

    UNUSED: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {
            "batch_size": 16, "prior_weight": 1.0, "local_weight": 0.0, "tuning": "low_rank", "cross_rank": 0,
            "cross_alpha": 0.0, "self_rank": 0, "self_alpha": 0.0, "feed_forward_rank": 0, "feed_forward_alpha": 0.0,
            "text_rank": 0, "text_alpha": 0.0, "subject_block": 0, "extract_rank": 0, "token": "none",
            "token_vectors": 1, "token_start": "", "token_learning_rate": 0.0, "text_encoder": False,
            "text_learning_rate": 0.0, "min_snr_gamma": 0.0, "background_weight": 1.0, "local_attention": "content",
            "objective": "mse", "dco_beta": 1000.0, "caption_dropout": 0.0, "composite_share": 0.25,
            "noise_offset": 0.0, "validate_every": -1, "validation_pictures": 8, "validation_prompts": "",
        }
    )  # fmt: skip

    method: str = setting(
        DEFAULT_METHOD,
        "How the policy learns: nft learns good pictures and unlearns bad ones, also such as the subject's adapter "
        "draws at lower strength; grpo compares the pictures of a prompt among themselves and holds each sampling step "
        "near the subject's; ddpo, the way of InstructBooth, compares with what a prompt has earned so far; "
        "grpo_clamped, after DPOK, is grpo that learns nothing from a step whose probability has moved beyond "
        "clip_range; pairs prefers the better of two; draft follows the gradient of the reward itself, and deceives it "
        "soonest.",
        tuple(METHODS),
    )
    steps: int = setting(60, "Number of optimiser steps.", Range(1, 100_000, 2))
    learning_rate: float = setting(
        0.0,
        "Step size of the refining adapter. 0 chooses from the denoiser's size: 1e-4 for SD 1.x and SDXL, with nft "
        "3e-4 and with draft 5e-5; more for smaller ones.",
        Range(1e-8, 1.0, 1e-5),
        auto=0,
    )
    rank: int = setting(8, "Rank of the refining adapter: how much it can change.", Range(1, 256, 1))
    parameter_set: str = setting(
        "attention",
        "Which layers of the denoiser are refined.",
        ("attention", "cross", "cross_kv", "self", "attention_ff", "feed_forward"),
    )
    prompts_per_round: int = setting(8, "Different prompts that a round draws.", Range(1, 1000, 1))
    group: int = setting(8, "Pictures that a round draws of each prompt.", Range(2, 256, 1))
    updates: int = setting(2, "Optimiser steps on the pictures of a round.", Range(1, 64, 1), advanced=True)
    trained_steps: int = setting(
        8,
        "Sampling steps of each picture that are trained, drawn at random; fewer are faster.",
        Range(1, 1000, 1),
        advanced=True,
    )
    sampling_steps: int = setting(
        20, "Sampling steps of the pictures that a round draws.", Range(3, 1000, 1), advanced=True
    )
    guidance: float = setting(
        5.0,
        "Classifier-free guidance of the pictures that are drawn; 1 is none. The other methods train with it too; nft "
        "and pairs learn the prediction without. NFT's authors do both with 1.",
        Range(1.0, 30.0, 0.5),
    )
    kl_weight: float = setting(
        -1.0,
        "How strongly the refinement is held near the subject's adapter alone: each sampling step, with nft each "
        "prediction. -1 takes 0.02, with grpo_clamped 0.01, with nft 1e-4, with ddpo 0.",
        Range(0.0, 10.0, 0.01),
        auto=-1,
    )
    subject_floor: float = setting(
        0.9,
        "The share of the likeness at the start below which, by more than two standard errors, a reading counts as "
        "failed; InstructBooth kept 0.93 of DINO's. 0 does not look at it.",
        Range(0.0, 1.0, 0.01),
    )
    diversity_floor: float = setting(
        0.7,
        "The share of the variety at the start, among pictures of one prompt, below which, by more than two standard "
        "errors, a reading counts as failed.",
        Range(0.0, 1.0, 0.05),
        advanced=True,
    )
    held_out_floor: float = setting(
        0.97,
        "The share of the CLIP score at the start below which, by more than two standard errors, a reading counts as "
        "failed, where that CLIP is not in the reward itself: a reward that rises while another metric falls is being "
        "deceived.",
        Range(0.0, 1.0, 0.01),
        advanced=True,
    )
    guard_every: int = setting(
        2,
        "Rounds between readings on held-out prompts. The last that did not fail is returned, unless an earlier one "
        "earns more by over two standard errors.",
        Range(1, 1000, 1),
        advanced=True,
    )
    guard_prompts: int = setting(
        16,
        "Held-out prompts that a reading draws, two pictures of each, or as many pictures of fewer prompts. More make "
        "its standard error smaller, with their square root; 16 cost about an eighth of the rounds between readings.",
        Range(1, 100, 1),
        advanced=True,
    )
    patience: int = setting(
        2,
        "Ends the refinement when that many readings in a row failed. 0 goes on to the end.",
        Range(0, 100, 1),
        advanced=True,
    )
    eta: float = setting(
        1.0,
        "Noise of the sampling steps as a share of the ancestral sampler's; what is learned holds for any sampler. "
        "nft, pairs and draft also draw with 0, which is deterministic DDIM.",
        Range(0.0, 1.0, 0.05),
        advanced=True,
    )
    explore: float = setting(
        -1.0,
        "With nft and pairs: how far below its own strength the subject's adapter is while pictures are drawn. The "
        "pictures of a prompt are drawn at strengths from 1 down to 1 - explore. A subject that was trained for too "
        "long never draws what some prompts ask for, and what is never drawn is not learned. -1 takes 0.3, and 0 "
        "where there is no adapter to lower.",
        Range(0.0, 0.9, 0.05),
        auto=-1,
        advanced=True,
    )
    skip_last: int = setting(
        2,
        "Sampling steps at the end that are not trained: there little noise makes their probabilities unsteady.",
        Range(0, 100, 1),
        advanced=True,
    )
    clip_range: float = setting(
        1e-4,
        "How far the probability of a step may move before its gradient is cut, for latents of 64 x 64 x 4; scaled "
        "with the latents' size.",
        Range(1e-7, 1.0, 1e-5),
        advanced=True,
    )
    advantage_clip: float = setting(
        -1.0,
        "Advantages beyond this many standard deviations are cut; with nft a picture that earns so much more counts as "
        "wholly good. -1 takes 5, with nft 1.",
        Range(0.1, 100.0, 0.5),
        auto=-1,
        advanced=True,
    )
    statistics: int = setting(
        32, "With ddpo: the latest rewards of a prompt that are compared with.", Range(2, 10_000, 1), advanced=True
    )
    statistics_from: int = setting(
        16,
        "With ddpo: rewards of a prompt from which on it is compared with itself, and not with the whole round.",
        Range(2, 10_000, 1),
        advanced=True,
    )
    nft_beta: float = setting(
        1.0, "With nft: how far the good and the bad policy lie apart.", Range(0.01, 10.0, 0.1), advanced=True
    )
    pair_beta: float = setting(
        5000.0,
        "With pairs: how closely the refinement stays with the subject; 2000 to 5000 are usual.",
        Range(1.0, 100_000.0, 100.0),
        advanced=True,
    )
    pair_passes: int = setting(
        1,
        "With pairs: how often a round's pairs are learned from, each time noised anew.",
        Range(1, 1000, 1),
        advanced=True,
    )
    pair_with: str = setting(
        OTHERS,
        "With pairs: what a drawn picture is compared with. others are those of its prompt, the best with the worst; "
        "references are the subject's own pictures, which bind the refinement to them (RPO).",
        (OTHERS, REFERENCES),
        advanced=True,
    )
    weight_decay: float = setting(0.0, "The optimiser's weight decay.", Range(0.0, 1.0, 1e-4), advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts_per_round * self.group % self.updates:
            raise FewShotError(
                f"a round draws {self.prompts_per_round} x {self.group} pictures, which cannot be parted into "
                f"{self.updates} equal updates: choose a number of updates that divides them"
            )
        if self.statistics_from > self.statistics:
            raise FewShotError(
                f"statistics_from is {self.statistics_from}, and only {self.statistics} rewards of a prompt are kept: "
                "raise statistics"
            )
        if self.eta == 0 and self.of_method.policy_gradient:
            raise FewShotError(
                f"eta is 0, and {self.method} needs sampling steps with noise: choose an eta near 1, or one of nft, "
                "pairs and draft"
            )
        for name, about in self.named_fields().items():
            methods = readers(name)
            if self.method not in methods and getattr(self, name) != about.default:
                raise FewShotError(
                    f"{name} is for {', '.join(methods)}, and the method is {self.method}: leave it at {about.default}"
                )

    @property
    def of_method(self) -> RefinementMethod:
        """What its method makes of settings that are left open, and which it reads."""
        return METHODS[self.method]

    def rows(self, priors: int) -> int:
        return ROWS

    @property
    def validates(self) -> bool:
        """Whether models that see pictures are of use: they watch over its readings."""
        return True

    @property
    def rates(self) -> dict[str, float]:
        """The refining adapter's learning rate."""
        return {DENOISER_ROOT: self.learning_rate}

    @property
    def draws(self) -> bool:
        """Whether pictures are drawn while training: it learns from them."""
        return True

    @property
    def rate_share(self) -> float:
        """What learning_rate left open means, as a share of the usual one."""
        return self.of_method.rate_share

    @property
    def resolved_kl_weight(self) -> float:
        """kl_weight, or what it means where it is left open."""
        return self.of_method.kl_weight if self.is_auto("kl_weight") else self.kl_weight

    @property
    def resolved_explore(self) -> float:
        """explore, or what it means where it is left open; 0 with methods that learn from their own pictures alone."""
        if self.method not in readers("explore"):
            return 0.0
        return EXPLORED if self.is_auto("explore") else self.explore

    @property
    def resolved_advantage_clip(self) -> float:
        """advantage_clip, or what it means where it is left open; without bound with methods that do not cut."""
        return self.of_method.advantage_clip if self.is_auto("advantage_clip") else self.advantage_clip
