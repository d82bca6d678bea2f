"""What the votes that a page exports come to, by which the page's own counting is checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfyui_fewshot.core.statistics import Interval, wilson


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
