"""The verdict on a refinement: the subject before against after, prompt by prompt."""

from __future__ import annotations

from .measure import Measurement
from .verdict import LEARNED, NOTHING, SURE, LearningVerdict, Share, difference, has_room, mean, share, top

LOST = "likeness lost"
LOSABLE = 0.1
"""of the room for likeness that a refinement may cost"""
TITLES = {
    LEARNED: "Did it learn? Yes.",
    NOTHING: "Did it learn? Prompts are followed no better than before.",
    LOST: "Did it learn? At the cost of the subject.",
}
ADVICE = {
    NOTHING: "What to change: more steps or a higher learning_rate, or a Reward that tells good pictures of these "
    "prompts from bad ones, such as clip_contrast.",
    LOST: "What to change: more weight on likeness in Reward, a higher subject_floor, fewer steps.",
}
UNSEEN = "No pictures of the subject are connected: whether likeness was kept was not measured"
NO_ROOM = "The base's own pictures of the class are as like the references as these are: likeness is not judged"
UNREAD = "The CLIP does not tell the base's own pictures of these prompts apart: prompts gained are not judged"


def verdict_of_refinement(measurement: Measurement) -> LearningVerdict:
    """`measurement` has the columns floor, before, after. The shares are of the base's own prompt following, and of the
    room for likeness."""
    floor, before, after = measurement.columns
    follows = share(difference(floor.prompt, floor.unrelated), 1.0)
    gains = difference(difference(after.prompt, after.unrelated), difference(before.prompt, before.unrelated))
    gained = share(gains, follows.value) if follows.sure else None
    kept = None
    if has_room(measurement):
        kept = share(difference(after.subject, before.subject), top(measurement) - mean(floor.subject))
    finding = _finding(gained, kept)
    parts = [] if gained is None else [f"prompts: {_signed(gained)} of the base's following against before"]
    parts += [] if kept is None else [f"likeness: {_signed(kept)} of the way from the class to the references"]
    lines = [f"{TITLES[finding]} {'; '.join(parts)}"]
    lines += [NO_ROOM if after.subject else UNSEEN] if kept is None else []
    lines += [UNREAD] if gained is None else []
    lines += [ADVICE[finding]] if finding in ADVICE else []
    return LearningVerdict(finding, tuple(lines))


def _finding(gained: Share | None, kept: Share | None) -> str:
    if kept is not None and kept.value < -LOSABLE and Share(-kept.value, kept.error).sure:
        return LOST
    return LEARNED if gained is not None and gained.sure else NOTHING


def _signed(change: Share) -> str:
    return f"{100 * change.value:+.0f} % (give or take {100 * SURE * change.error:.0f})"
