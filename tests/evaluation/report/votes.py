"""What the votes that a page exports come to, by which the page's own counting is checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from comfyui_fewshot.core.statistics import Interval

Z = 1.959963984540054


def win_rates(exported: Mapping[str, Any]) -> dict[str, dict[tuple[str, str], Interval]]:
    """By question, for each pair of names: how often the first one won, with its Wilson interval; ties do not count.

    Args:
        exported: the JSON that the page exports.
    """
    votes: dict[str, dict[tuple[str, str], list[int]]] = {}
    for vote in exported["votes"]:
        counts = votes.setdefault(vote["question"], {}).setdefault((vote["a"], vote["b"]), [0, 0])
        if vote["winner"] is not None:
            counts[0] += vote["winner"] == vote["a"]
            counts[1] += 1
    return {
        question: {pair: wilson(wins, total) for pair, (wins, total) in rows.items()}
        for question, rows in votes.items()
    }


def wilson(wins: int, total: int) -> Interval:
    """The share wins / total and its 95 % score interval (Wilson 1927); without a vote the share is not known."""
    if total == 0:
        return Interval(math.nan, None, None, 0)
    share, spread = wins / total, Z**2 / total
    middle = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * share * (1 - share) + spread**2 / 4) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), total)
