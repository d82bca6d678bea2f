"""Refinement on the pocket: a subject that was trained for too long is made to follow prompts again.

The start is the default recipe of subjects at twice the chosen number of steps. The reward is the pocket's CLIP, the
judges are the scene readers; prompts that are judged were never learned from. Everything made is kept on disk, so that
a bench that was stopped goes on.
"""

from __future__ import annotations

from functools import partial

from ..harness.rows import Parts
from ..harness.workshop import Workshop
from .bench import FULL, QUICK, Bench
from .ddpo_comparison import baseline
from .methods import methods

STEPS = "twice the automatic"
"""training steps of a start, for the page of claims"""


def parts(quick: bool) -> Parts:
    return parts_of(Bench(Workshop(steps=0), QUICK if quick else FULL))


def parts_of(bench: Bench) -> Parts:
    return {
        "headline": bench.headline,
        "idmix": bench.id_mix,
        "ddpo_baseline": partial(baseline, bench),
        "methods": partial(methods, bench),
    }
