"""Relation inversion on the pocket: hidden relations from a few pictures, judged on pairs of things they do not show.

`entity.*` is the share of samples that show both things asked for, `relation.*` the share that show the relation, both
in percent and as a scene reader sees them. All methods get the same pictures, steps and batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..augmentation.expansion import ExpansionSettings, expand
from ..augmentation.relation_pictures import relation_from_folder
from ..models.values import Adapter, TrainingSet
from ..pocket import pictures, world
from ..trainers.relation import train_relation
from ..trainers.relation_settings import RelationSettings
from . import Row
from ._subject_runs import Workshop
from .subject import gain, share

log = logging.getLogger(__name__)

WORD = "<R>"
STEPS, CAPTIONS, FEW, TEN = 400, 12, 2, 10
PAPER = {"token": "free"}
METHODS: dict[str, tuple[dict, bool]] = {
    "ours": ({"token": "direction"}, True),
    "reversion": (PAPER, False),
    "captions": (PAPER, True),
    "gan_literal": (PAPER | {"adversarial": "literal"}, True),
    "gan_sensible": (PAPER | {"adversarial": "sensible"}, True),
    "gan_sequential": (PAPER | {"adversarial": "sensible", "adversarial_order": "sequence"}, True),
}
"""settings, and whether the captions are expanded"""
ABLATIONS = {"steering.on_off": {"steering_weight": 0.0}, "focal.on_off": {"focal": 0.0}}


@dataclass(frozen=True)
class Run:
    """One hidden relation and seed."""

    relation: str
    seed: int


Found = tuple[list[float], list[float], list[Run]]


@dataclass(frozen=True)
class Bench:
    """What is measured: all relations and two seeds for the headline, one relation for ablations."""

    shop: Workshop
    quick: bool

    @property
    def runs(self) -> list[Run]:
        relations, seeds = list(world.HIDDEN), range(2)
        if self.quick:
            relations, seeds = relations[:1], range(1)
        return [Run(relation, seed) for relation in relations for seed in seeds]

    @property
    def few_runs(self) -> list[Run]:
        return [run for run in self.runs if run.relation == next(iter(world.HIDDEN))]

    def goal(self, value: float) -> float | None:
        return None if self.quick else value

    def set_of(self, run: Run, count: int, expanded: bool) -> TrainingSet:
        folder = self.shop.sets / f"{run.relation}_{count}"
        if not folder.is_dir():
            pictures.write_relation(folder, run.relation, count)
        found = relation_from_folder(folder, WORD)
        return expand(found, ExpansionSettings(CAPTIONS, seed=run.seed))[0] if expanded else found

    def learned(self, run: Run, settings: dict, expanded: bool, count: int = FEW) -> Adapter:
        chosen = RelationSettings.from_mapping({"steps": self.shop.steps, "seed": run.seed, **settings})
        made = self.set_of(run, count, expanded)
        folder = self.shop.folder / "trained"
        return train_relation(self.shop.base, made, chosen, folder, self.shop.device, name="relation").adapter

    def judged(self, run: Run, adapter: Adapter | None, count: int = FEW) -> tuple[list[float], list[float]]:
        """Of each prompt with a pair that no training picture shows: both things there, and the relation there."""
        pairs = unseen_pairs(count)[: 16 if self.quick else 40]
        word = WORD if adapter else "and"
        places = list(world.PLACES.values())
        prompts = [f"a {a} {word} a {b} {places[i % len(places)]}" for i, (a, b) in enumerate(pairs)]
        read = self.shop.readings(adapter, prompts, run.seed)
        entity = [float({t.noun for t in r.things} == set(pair)) for r, pair in zip(read, pairs, strict=True)]
        return entity, [float(r.layout == run.relation) for r in read]

    def over(self, runs: Sequence[Run], teach: Callable[[Run], Adapter | None], count: int = FEW) -> Found:
        entity: list[float] = []
        relation: list[float] = []
        groups: list[Run] = []
        for run in runs:
            one, other = self.judged(run, teach(run), count)
            entity, relation, groups = entity + one, relation + other, groups + [run] * len(one)
        return entity, relation, groups

    def method(self, name: str, runs: Sequence[Run] | None = None, **changes) -> Found:
        settings, expanded = METHODS[name]
        return self.over(self.runs if runs is None else runs, lambda r: self.learned(r, settings | changes, expanded))

    def rows(self) -> list[Row]:
        floor = self.over(self.runs, lambda _: None)
        rows = both("base_and", floor)
        found = {}
        for name in METHODS:
            found[name] = self.method(name)
            rows += both(name, found[name])
            log.info("%s", "; ".join(f"{row.name} {row.value:.3g}" for row in rows[-2:]))
        ours, paper = found["ours"], found["reversion"]
        rows.append(gain("ours.entity_gain", ours[0], paper[0], ours[2], self.goal(15)))
        rows.append(gain("ours.relation_loss", ours[1], paper[1], ours[2], self.goal(-8)))
        ten = self.over(self.runs, lambda run: self.learned(run, PAPER, False, TEN), TEN)
        rows.append(share("reversion10.relation", ten[1], ten[2], self.goal(60)))
        for name, off in ABLATIONS.items():
            on, without = self.method("ours", self.few_runs), self.method("ours", self.few_runs, **off)
            rows.append(gain(name, on[1], without[1], on[2]))
        return rows


def both(name: str, found: Found) -> list[Row]:
    entity, relation, groups = found
    return [share(f"entity.{name}", entity, groups), share(f"relation.{name}", relation, groups)]


def unseen_pairs(count: int) -> list[tuple[str, str]]:
    """The pairs of classes that `count` training pictures do not show, in either order."""
    shown = {frozenset(pictures.pair_of(index)) for index in range(count)}
    return [pair for pair in pictures.PAIRS if frozenset(pair) not in shown]


def rows(quick: bool) -> list[Row]:
    return Bench(Workshop(steps=40 if quick else STEPS), quick).rows()
