"""Refinement on the pocket: an overtrained subject is made to follow prompts again.

The start is the default recipe of subjects at twice the chosen number of steps. The reward is the pocket's CLIP, the
judges are the scene readers; judged prompts were never trained on. All results are saved on disk, so that an
interrupted bench resumes.
"""

from __future__ import annotations

from functools import partial

from ..harness.rows import Parts
from ..harness.workshop import Workshop
from .bench import RefinementBenchmark
from .ddpo_comparison import ddpo_rows
from .methods import methods
from .oracle import oracle_rows
from .size import FULL, QUICK

STEPS = "twice the automatic"  # training steps of a start, for the page of claims


def parts(quick: bool) -> Parts:
    return parts_of(RefinementBenchmark(Workshop(steps=0), QUICK if quick else FULL))


def parts_of(bench: RefinementBenchmark) -> Parts:
    return {
        "headline": bench.headline,
        "idmix": bench.id_mix,
        "ddpo_baseline": partial(ddpo_rows, bench),
        "methods": partial(methods, bench),
        "oracle": partial(oracle_rows, bench),
    }
