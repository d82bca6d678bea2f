"""The verdict on a subject's training in words: what was found, the strength to use, and what to change."""

from __future__ import annotations

from .measure import ColumnScores, Measurement
from .size import FULL
from .verdict import (
    COPIED,
    IGNORES,
    LEARNED,
    NOTHING,
    SAME,
    LearningVerdict,
    Shares,
    best_column,
    finding_of,
    has_room,
    shares_of,
)

TITLES = {
    LEARNED: "Did it learn? Yes.",
    NOTHING: "Did it learn? Next to nothing.",
    COPIED: "Did it learn? It repeats its pictures, whatever the prompt says.",
    IGNORES: "Did it learn? It follows prompts no longer.",
}
ADVICE = {
    NOTHING: "What to change: see that all pictures show the same subject and that captions name it by its trigger; "
    "then more steps, or a higher learning_rate.",
    COPIED: "What to change: fewer steps or a lower learning_rate, priors (Generate Priors), and pictures in other "
    "surroundings, or Segment and Paste where there are none.",
    IGNORES: "What to change: fewer steps or a lower learning_rate, and priors (Generate Priors).",
}
NO_CEILING = (
    "One picture has none to be compared with: how like the references are among themselves is unknown, and likeness "
    "is said as a share of the way to a picture that is the same"
)
NO_ROOM = (
    "The references are hardly more like each other than the base's pictures of the class are like them: they show no "
    "one subject, or one that the base knows already"
)
UNREAD = "Its CLIP does not tell the base's own pictures of these prompts apart: prompt following was not judged"


def verdict_of(measurement: Measurement) -> LearningVerdict:
    """The verdict on a subject: judged is full strength, and the best strength is named beside it."""
    full = next(column for column in measurement.columns[1:] if column.strength == FULL)
    shares = shares_of(measurement, full)
    finding, best = finding_of(shares), best_column(measurement)
    several = len(measurement.columns) > 2 and finding != NOTHING
    lines = [f"{TITLES[finding]} {described(measurement, shares)}"]
    if several:
        lines.append(_best_line(measurement, best, finding))
    lines += [] if has_room(measurement) else [NO_ROOM]
    lines += [NO_CEILING] if measurement.ceiling is None else []
    lines += [UNREAD] if shares.prompts is None else []
    lines += [ADVICE[finding]] if finding in ADVICE else []
    return LearningVerdict(finding, tuple(lines), best.strength if several and best is not None else None)


def described(measurement: Measurement, shares: Shares) -> str:
    """A column's shares in words."""
    to = "the references' likeness among themselves" if measurement.ceiling is not None else "sameness"
    parts = []
    if shares.likeness is not None:
        parts.append(f"likeness: {shares.likeness} of the way from the class to {to}")
    if shares.prompts is not None:
        parts.append(f"prompts: {shares.prompts} of the base's following kept")
    if shares.sameness is not None and shares.sameness.value >= SAME:
        parts.append("pictures of different prompts are as like each other as the references are")
    return "; ".join(parts)


def _best_line(measurement: Measurement, best: ColumnScores | None, finding: str) -> str:
    """The strength to use, and whether it helps where full strength fails."""
    if best is None:
        return "At no strength are both better than the base's"
    shares = shares_of(measurement, best)
    line = f"Likeness and prompts together are best at strength {best.name}"
    if best.strength == FULL:
        return line
    helps = "; until then use it there" if finding != LEARNED and not shares.prompts_lost else ""
    return f"{line} ({described(measurement, shares)}){helps}"
