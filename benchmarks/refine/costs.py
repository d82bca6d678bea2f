"""The cost of a refinement in evaluations of the denoiser, so that methods are compared at equal cost.

Every forward counts, both branches of guidance and recomputation too, and a backward counts as two.
"""

from __future__ import annotations

from dataclasses import replace

from ...trainers.refine.methods.table import DRAFT, NFT, PAIRS
from ...trainers.refine.settings import RefinementSettings

TRAINED = 3  # a forward and a backward


def samples(settings: RefinementSettings) -> int:
    """Pictures of a round."""
    return settings.prompts_per_round * settings.group


def per_round(settings: RefinementSettings) -> int:
    """Evaluations of a round: sampling it, and all updates on it."""
    guided = 2 if settings.guidance > 1 else 1
    return samples(settings) * settings.sampling_steps * guided + _learning(settings, guided)


def _learning(settings: RefinementSettings, guided: int) -> int:
    count, held = samples(settings), settings.resolved_kl_weight > 0
    if settings.of_method.policy_gradient:
        trainable = settings.sampling_steps - max(settings.skip_last, 1)  # the last one has no density
        rows = count * min(settings.trained_steps, trainable) * guided
        return rows * (TRAINED + held) + rows * (settings.updates - 1) // settings.updates
    rows = count * settings.trained_steps
    if settings.method == NFT:
        return rows * (TRAINED + 1 + held)
    if settings.method == PAIRS:
        return (
            settings.pair_passes * rows * (TRAINED + 1)
        )  # as many rows as pictures: two for each of half as many pairs
    assert settings.method == DRAFT
    return count * guided * TRAINED


def within(settings: RefinementSettings, evaluations: int) -> RefinementSettings:
    """The settings with as many complete rounds as `evaluations` allow, at least one."""
    return replace(settings, steps=max(1, evaluations // per_round(settings)) * settings.updates)
