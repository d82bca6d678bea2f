"""Rows of what is tuned and how: Table 1's baselines, every optimiser, and subjects that were trained apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models.fusion import Drawing, fused, summed
from ..models.loading import open_base
from ..models.values import Adapter
from . import Row

if TYPE_CHECKING:
    from .subject import Bench

ATTENTION = {"parameter_set": "attention"}
BASELINES: Mapping[str, dict[str, Any]] = {
    "lora": ATTENTION,
    "textual_inversion": {"parameter_set": "none", "token": "free", "prior_weight": 0.0},
    "custom_diffusion": {"parameter_set": "cross_kv", "tuning": "full", "token": "free"},
    "dreambooth": {"parameter_set": "all", "tuning": "full"},
}
"""the settings of each plain method by its name (NeTI, which needs a network of its own, is left out)"""
OPTIMISERS: Mapping[str, dict[str, Any]] = {
    "adamw": {},
    "prodigy": {"optimizer": "prodigy"},
    "schedule_free": {"optimizer": "schedule_free"},
    "direction": {"token": "direction"},
}
"""by row, what differs from plain LoRA training; the 8-bit one needs a GPU"""
BLOCKS = {"tuning": "orthogonal"}


def optimiser_rows(bench: Bench) -> list[Row]:
    """Both fidelities with each optimiser, and with a learned direction for the identifier."""
    rows: list[Row] = []
    for name, how in OPTIMISERS.items():
        rows += bench.both_rows(f"optimiser.{name}", bench.table_runs, bench.teacher(ATTENTION | how))
    return rows


def apart(bench: Bench, pair: tuple[str, str], seed: int, blocks: bool) -> list[tuple[Adapter, float]]:
    """Two subjects, each trained by itself with an identifier of its own."""
    return [
        (
            bench.shop.train(
                bench.shop.with_priors(one),
                seed=seed,
                **ATTENTION,
                **(BLOCKS | {"subject_block": number} if blocks else {}),
            ),
            1.0,
        )
        for number, one in enumerate(bench.sets_of(pair))
    ]


def fused_rows(bench: Bench) -> list[Row]:
    """Both subjects in one picture, of adapters that were trained apart: fused, added, added from blocks."""
    found: dict[str, list[float]] = {"multi.fused": [], "multi.summed": [], "multi.orthogonal": []}
    groups: list[object] = []
    for pair in bench.pairs:
        for seed in bench.seeds:
            plain = apart(bench, pair, seed, blocks=False)
            with open_base(bench.shop.base, bench.shop.device) as networks:
                joined = {"multi.fused": fused(networks, plain, Drawing())[0], "multi.summed": summed(plain)}
            joined["multi.orthogonal"] = summed(apart(bench, pair, seed, blocks=True))
            for name, adapter in joined.items():
                found[name] += bench.shows_both(adapter, pair, seed)
            groups += [(pair, seed)] * (len(found["multi.fused"]) - len(groups))
    return [bench.share(name, values, groups) for name, values in found.items()]
