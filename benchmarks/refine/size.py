"""How much the bench of refinement measures: its full and its quick size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EvaluationBudgets:
    """Evaluations of the denoiser for one refinement of each part, about 4 ms each on one processor."""

    headline: int = 72_000
    id_mix: int = 24_000
    method: int = 15_000
    reward: int = 38_000  # of ours against DDPO


@dataclass(frozen=True, kw_only=True)
class DdpoComparisonSize:
    """How long the published DDPO trains, at which learning rates, and how its speed is measured."""

    epochs: int = 3  # 37,800 evaluations
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    speed_steps: int = 10  # sampling steps
    speed_rounds: int = 3


@dataclass(frozen=True, kw_only=True)
class RefinementSize:
    """How much is measured.

    With two processors the headline is estimated at 45 minutes, half of them for its starts, the mix at 8, the
    comparison with DDPO at 8 and the methods at 11.
    """

    subjects: int = 6  # of the world's, every second one, one seed each
    steps: int | None = None  # of the start; None takes twice the chosen number
    judged: int = 24  # prompts
    activities: int = 14  # of 24 in the world, four of which are judged and six used by the guards
    few_activities: int = 6  # of the methods' table: a round samples them all
    oracle_subjects: int = 4  # of the reported ones
    oracle_prompts: int = 36  # of the true reward, a third of which is for the guards
    budgets: EvaluationBudgets = EvaluationBudgets()
    ddpo: DdpoComparisonSize = DdpoComparisonSize()
    settings: Mapping[str, Any] | None = None  # replace those of `bench.DEFAULT`
    goals: bool = True


TINY = dict(
    prompts_per_round=2, group=2, updates=1, trained_steps=1, sampling_steps=4, guidance=1.0, guard_prompts=1,
    skip_last=1, save_every=1000,
)  # fmt: skip

FULL = RefinementSize()

QUICK = RefinementSize(
    subjects=1,
    steps=30,
    judged=6,
    activities=6,
    few_activities=3,
    oracle_subjects=1,
    oracle_prompts=6,
    budgets=EvaluationBudgets(headline=300, id_mix=300, method=150, reward=300),
    ddpo=DdpoComparisonSize(epochs=1, learning_rates=(1e-3,), speed_steps=4, speed_rounds=1),
    settings=TINY,
    goals=False,
)
