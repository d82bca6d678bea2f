"""The verdict on a relation: how much of its pictures' error the word takes away, and whether other things appear."""

from __future__ import annotations

from .measure import Measurement
from .verdict import IGNORES, LEARNED, NOTHING, LearningVerdict, Share, shares_of

TITLES = {
    LEARNED: "Did it learn? Yes.",
    NOTHING: "Did it learn? Next to nothing.",
    IGNORES: "Did it learn? The word drowns the things beside it.",
}
ADVICE = {
    NOTHING: "What to change: pictures that share one relation between different things, more of them, more steps.",
    IGNORES: "What to change: token direction, fewer steps or a lower token_learning_rate.",
}
UNMEASURED = "How much of its pictures' error the word takes away was not measured (validate_every is 0)"


def verdict_of_relation(measurement: Measurement, gain: Share | None) -> LearningVerdict:
    """The floor's column is the base with the relation in plain words, or with none.

    Args:
        gain: the share of the pictures' error that the word takes away; None where it was not measured.
    """
    shares = shares_of(measurement, measurement.columns[-1])
    prompts, finding = shares.prompts, LEARNED if gain is None or gain.sure else NOTHING
    finding = IGNORES if shares.prompts_lost else finding
    parts = [] if gain is None else [f"the word takes away {_percent(gain)} of its pictures' error"]
    if prompts is not None:
        parts.append(f"prompts with other things: {prompts} of the base's following kept")
    title = TITLES[finding] if gain is not None or finding == IGNORES else "Did it learn? Not known."
    lines = [f"{title} {'; '.join(parts)}".strip()]
    lines += [UNMEASURED] if gain is None else []
    lines += [ADVICE[finding]] if finding in ADVICE else []
    return LearningVerdict(finding, tuple(lines))


def _percent(gain: Share) -> str:
    return f"{100 * gain.value:.2f} % (give or take {200 * gain.error:.2f})"
