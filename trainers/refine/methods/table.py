"""What settings have to know of each method of refinement. Importing this costs nothing.

A method is its entry here and its step, which names it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

NFT, GRPO, DDPO, GRPO_CLAMPED, PAIRS, DRAFT = "nft", "grpo", "ddpo", "grpo_clamped", "pairs", "draft"
FORMER_NAMES: Mapping[str, str] = MappingProxyType({"dpok": GRPO_CLAMPED})
"""what methods were called in earlier versions, and are called now"""


@dataclass(frozen=True)
class RefinementMethod:
    """What a method makes of settings that are left open, and which it reads.

    Args:
        only: the settings that it reads, and not every method does.
        kl_weight: what kl_weight left open means.
        advantage_clip: what advantage_clip left open means: with nft it is also what a picture has to earn to count as
            wholly good. Without bound where advantages are not cut.
        rate_share: what learning_rate left open means, as a share of a LoRA's usual one (1e-4 for SD 1.x). Adam takes
            steps of that size whatever the loss is scaled by, so what counts is how far a gradient is noise: those of
            the policy, of noised pictures and of pairs are mostly that, and go on average a small part of what they
            step; a reward's own gradient has none of it, and each step goes the whole way towards what deceives it.
            That of nft is DiffusionNFT's own, 3e-4.
        policy_gradient: it learns from the probabilities of sampling steps, which need noise.
    """

    only: frozenset[str]
    kl_weight: float = 0.0
    advantage_clip: float = math.inf
    rate_share: float = 1.0
    policy_gradient: bool = False


_GRADIENT = frozenset({"clip_range", "skip_last", "advantage_clip", "kl_weight", "trained_steps"})

METHODS: Mapping[str, RefinementMethod] = MappingProxyType(
    {
        NFT: RefinementMethod(
            frozenset({"advantage_clip", "kl_weight", "trained_steps", "explore", "nft_beta"}),
            kl_weight=1e-4,
            advantage_clip=1.0,
            rate_share=3.0,
        ),
        GRPO: RefinementMethod(_GRADIENT, kl_weight=0.02, advantage_clip=5.0, policy_gradient=True),
        DDPO: RefinementMethod(_GRADIENT | {"statistics", "statistics_from"}, advantage_clip=5.0, policy_gradient=True),
        GRPO_CLAMPED: RefinementMethod(_GRADIENT, kl_weight=0.01, advantage_clip=5.0, policy_gradient=True),
        PAIRS: RefinementMethod(frozenset({"trained_steps", "explore", "pair_beta", "pair_passes", "pair_with"})),
        DRAFT: RefinementMethod(frozenset(), rate_share=0.5),
    }
)
"""by name, in the order in which they are offered"""

DEFAULT_METHOD = NFT
"""the one that `run.py bench refine` judges best for what it spends"""


def readers(setting: str) -> tuple[str, ...]:
    """The methods that read a setting: all, but where only some do."""
    return tuple(name for name, method in METHODS.items() if setting in method.only) or tuple(METHODS)
