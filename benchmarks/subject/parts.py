"""Subject training on the pocket: subjects unknown to the base, judged by the scene readers.

Subject fidelity is the share of samples that show class, pattern and colours right; prompt fidelity the share with the
prompt's place, accessory and relation. Differences are paired by prompt and seed; intervals are bootstrapped over runs.
The two sides of a comparison differ in what the row names and in nothing else.

The headline runs on all subjects and two seeds; other parts reuse its trainings where they can. Tables
run on one subject and two seeds at one number of denoiser evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..harness.rows import BenchmarkRow
from ..harness.workshop import Workshop
from .bench import SubjectBenchmark
from .checkpoint_choice import auto_gap, presets
from .default_recipe import default_rows, lead_rows, recipe_rows
from .tuning import baseline_rows, fused_rows, loss_rows, optimiser_rows
from .verdicts import verdict_rows

# Steps of a training of one subject, from which all other numbers of steps follow.
STEPS, QUICK_STEPS = 500, 300


def parts(quick: bool) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    return parts_of(SubjectBenchmark(Workshop(steps=QUICK_STEPS if quick else STEPS), quick))


def parts_of(bench: SubjectBenchmark) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    """The headline first, so that a bench that is stopped has it; the quick one leaves out most tables."""
    first = {one.__name__: one for one in (bench.poster, bench.priors, bench.local, bench.multi, bench.description)}
    tables = {"tuning": bench.tuning, "baselines": partial(baseline_rows, bench)}
    rest = {
        "poster_word": bench.poster_word,
        "presets": partial(presets, bench),
        "recipes": partial(recipe_rows, bench),
        "default_lead": partial(lead_rows, bench),
        "losses": partial(loss_rows, bench),
        "optimisers": partial(optimiser_rows, bench),
        "fused": partial(fused_rows, bench),
        "verdicts": partial(verdict_rows, bench),
    }
    default = {"default": partial(default_rows, bench), "auto": partial(auto_gap, bench)}
    return {**first, **default, **tables, **({} if bench.quick else rest)}
