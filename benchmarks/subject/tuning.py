"""Rows of trainings side by side: Table 1's baselines, losses, optimisers, and subjects trained separately."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import disagreement_note, share
from .plain_attention import PlainAttentionTraining
from .training_cases import ATTENTION_LOSS, PLAIN, judge_merged

if TYPE_CHECKING:
    from .bench import SubjectBenchmark

LORA: Mapping[str, Any] = {**PLAIN, "parameter_set": "attention"}  # of all attention, as in diffusers
# By method its settings.
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "lora": LORA,
    "textual_inversion": {**PLAIN, "parameter_set": "none", "token": "free", "prior_weight": 0.0},
    "custom_diffusion": {**PLAIN, "parameter_set": "cross_kv", "tuning": "full", "token": "free"},
    "dreambooth": {**PLAIN, "parameter_set": "all", "tuning": "full"},
}
NETI = "NeTI is left out: it needs a network of its own for the word"
# By row the differences from plain LoRA training, which is baseline.lora.
LOSSES: Mapping[str, Mapping[str, Any]] = {
    "local": ATTENTION_LOSS,
    "plain_local": {**ATTENTION_LOSS, "method": PlainAttentionTraining},
    "min_snr": {"min_snr_gamma": 5.0},
    "masked": {"background_weight": 0.1},
    "noise_offset": {"noise_offset": 0.05},
    "caption_dropout": {"caption_dropout": 0.1},
    "dco": {"objective": "dco", "prior_weight": 0.0},
}
# By row the differences from plain LoRA training, which is the row "adamw"; the 8-bit one needs a GPU.
OPTIMISERS: Mapping[str, Mapping[str, Any]] = {
    "adamw": {},
    **({"adamw_8bit": {"optimizer": "adamw_8bit"}} if torch.cuda.is_available() else {}),
    "prodigy": {"optimizer": "prodigy"},
    "schedule_free": {"optimizer": "schedule_free"},
    "cosine": {"schedule": "cosine"},
    "linear": {"schedule": "linear"},
    "warmup_stable_decay": {"schedule": "warmup_stable_decay"},
    "direction": {"token": "direction"},
    "pivotal": {"token": "free"},
}
FUSED = ("fused", "summed", "orthogonal")


def baseline_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """The plain methods: both fidelities each."""
    return bench.fidelity_rows("baseline", {name: ("anywhere", how) for name, how in BASELINES.items()}, NETI)


def loss_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """Both fidelities with each loss."""
    return bench.fidelity_rows("loss", {name: ("anywhere", {**LORA, **how}) for name, how in LOSSES.items()})


def optimiser_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """Both fidelities with each optimiser and schedule, and with a learned word or direction besides the layers."""
    return bench.fidelity_rows("optimiser", {name: ("anywhere", {**LORA, **how}) for name, how in OPTIMISERS.items()})


def fused_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """Both subjects in one picture, of adapters that were trained separately: fused, summed, summed from blocks."""
    jobs = [(bench.pairs[0], seed, way) for way in FUSED for seed in bench.seeds]
    judged = each(partial(judge_merged, bench.shop), jobs)
    rows = []
    for way in FUSED:
        results = [one for one, (_, _, how) in zip(judged, jobs, strict=True) if how == way]
        values = [right for right, _ in results]
        groups = [number for number, one in enumerate(values) for _ in one]
        note = disagreement_note(doubts for _, doubts in results)
        rows.append(share(f"multi.{way}", sum(values, []), groups, note=note))
    return rows
