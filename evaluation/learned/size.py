"""How many pictures the check draws: a quarter of what the training cost, spread over prompts and strengths."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.values import Adapter

STEPS, GUIDANCE = 16, 5.0
PER_PICTURE = 2 * STEPS
"""evaluations of the denoiser a picture costs: guidance asks twice a step"""
SHARE = 0.25  # of the training's evaluations that the check may cost
FEWEST, MOST = 4, 12  # prompts
STRENGTHS, FEW_STRENGTHS = (0.6, 0.8, 1.0, 1.2), (0.6, 1.0)
FULL = 1.0
"""the strength at which it is judged whether something was learned"""


@dataclass(frozen=True)
class CheckSize:
    """`prompts` are drawn by the base and at each of `strengths`."""

    prompts: int
    strengths: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        """Of the denoiser."""
        return self.prompts * (1 + len(self.strengths)) * PER_PICTURE


def check_size(evaluations: int, adapter: Adapter | None) -> CheckSize:
    """What a quarter of a training of so many `evaluations` pays for, 4 prompts and two strengths at least.

    A picture trained on costs three evaluations, as a backward pass counts as two. What has no strength (a word alone,
    a base that was trained in full: `adapter` None) is drawn once.
    """
    pictures = int(SHARE * evaluations / PER_PICTURE)
    strengths = STRENGTHS if pictures >= FEWEST * (1 + len(STRENGTHS)) else FEW_STRENGTHS
    if adapter is None or not adapter.factors:
        strengths = (FULL,)
    return CheckSize(min(max(pictures // (1 + len(strengths)), FEWEST), MOST), strengths)
