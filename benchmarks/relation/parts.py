"""Relation inversion on the pocket: hidden relations from a few pictures, judged on pairs of things they do not show.

`entity.*` is the share of samples that show both things asked for, `relation.*` the share that show the relation, in
percent and as a scene reader sees them. Where a relation has a direction, things in changed places do not show it. All
methods get the same pictures, steps and batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean

from ...core.values import Adapter
from ...pocket.models.judge import Reading, same_scene
from ...pocket.world import pictures, world
from ...trainers.relation.method import RelationTraining, train_relation
from ...trainers.relation.settings import RelationSettings
from ...trainers.run import train_with
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import gain, share
from ..harness.workshop import Workshop
from .sets import EXPANDED, LEAKING, PLAIN, WORD, set_of

log = logging.getLogger(__name__)

STEPS, FEW, TEN = 400, 2, 10
JUDGED = 40
DOUBTFUL = 0.05  # share of samples on which the judges disagree, above which a row says so
DIRECTED = frozenset(("dream", "framed"))
"""hidden relations in which it shows which thing is the first; two things that are tied look alike either way"""


@dataclass(frozen=True)
class Method:
    """What is taught: settings of Train Relation, which captions, how many pictures."""

    settings: dict = field(default_factory=dict)
    captions: str = PLAIN
    count: int = FEW


PAPER = {"token": "free"}
OURS = {"token": "direction"}
FLOOR = "base_and"
METHODS: dict[str, Method] = {
    "ours": Method(OURS, EXPANDED),
    "reversion": Method(PAPER),
    "captions": Method(PAPER, LEAKING),
    "gan_literal": Method(PAPER | {"adversarial": "literal"}, LEAKING),
    "gan_sensible": Method(PAPER | {"adversarial": "sensible"}, LEAKING),
    "gan_sequential": Method(PAPER | {"adversarial": "sensible", "adversarial_order": "sequence"}, LEAKING),
    "ours_adapter": Method(OURS | {"high_noise_rank": 16}, EXPANDED),
}
TEN_PICTURES = "reversion10"
ABLATIONS = {"steering": {"steering_weight": 0.0}, "focal": {"focal": 0.0}}
TAUGHT = (
    METHODS
    | {TEN_PICTURES: Method(PAPER, PLAIN, TEN)}
    | {f"no_{name}": Method(OURS | off, EXPANDED) for name, off in ABLATIONS.items()}
)
NOTES = {
    LEAKING: "a third of the captions tell the relation, as the report's do",
    EXPANDED: "no caption tells the relation",
    PLAIN: "",
}


@dataclass(frozen=True)
class Run:
    """One hidden relation and seed."""

    relation: str
    seed: int


@dataclass(frozen=True)
class Found:
    """Of each sample whether it shows both things, and the relation; its run; and how often the judges disagree."""

    entity: list[float]
    relation: list[float]
    groups: list[Run]
    doubt: float


@dataclass(frozen=True)
class Bench:
    """What is measured: all relations and two seeds."""

    shop: Workshop
    quick: bool

    @property
    def runs(self) -> list[Run]:
        relations, seeds = list(world.HIDDEN), range(2)
        if self.quick:
            relations, seeds = relations[:1], range(1)
        return [Run(relation, seed) for relation in relations for seed in seeds]

    def goal(self, value: float) -> float | None:
        return None if self.quick else value

    # --------------------------------------------------------------------------------------------- taught and judged

    def taught(self, name: str, run: Run) -> Adapter | None:
        """The word that a method learns; nothing for the floor. What is on disk is not learned again."""
        if name == FLOOR:
            return None
        method = TAUGHT[name]
        chosen = RelationSettings.from_mapping({"steps": self.shop.steps, "seed": run.seed, **method.settings})
        with self.shop.alone(f"relation_{run.relation}_{method.count}"):
            folder = self.shop.sets / f"{run.relation}_{method.count}"
            made = set_of(folder, run.relation, method.count, method.captions)
        place = (self.shop.folder / "trained", self.shop.device)
        with self.shop.alone(f"word_{name}_{run.relation}_{run.seed}"):
            if method.captions == LEAKING:  # Train Relation itself would leave the leaking ones out
                chosen = replace(chosen, preview_prompt=made.references[0].caption)
                result = train_with(RelationTraining(), self.shop.base, made, chosen, *place, name="relation")
            else:
                result = train_relation(self.shop.base, made, chosen, *place, name="relation")
        log.info("%s of %s %d: %.0f s", name, run.relation, run.seed, result.seconds)
        return result.adapter

    def judged(self, item: tuple[str, Run]) -> Found:
        """A method's word in prompts with pairs of things that no training picture shows together."""
        name, run = item
        adapter = self.taught(name, run)
        pairs = unseen_pairs(TAUGHT[name].count if name in TAUGHT else FEW)[: 16 if self.quick else JUDGED]
        places = list(world.PLACES.values())
        word = WORD if adapter else "and"
        prompts = [f"a {a} {word} a {b} {places[i % len(places)]}" for i, (a, b) in enumerate(pairs)]
        read, doubts = self.shop.judged(adapter, prompts, run.seed, alike=same_scene)
        entity = [float({thing.noun for thing in r.things} == set(pair)) for r, pair in zip(read, pairs, strict=True)]
        relation = [float(shows(r, run.relation, pair)) for r, pair in zip(read, pairs, strict=True)]
        return Found(entity, relation, [run] * len(pairs), mean(doubts))

    def found(self, names: Sequence[str]) -> dict[str, Found]:
        """All runs of some methods, as many at once as there are processors."""
        items = [(name, run) for name in names for run in self.runs]
        results = dict(zip(items, each(self.judged, items), strict=True))
        return {name: together([results[name, run] for run in self.runs]) for name in names}

    # ---------------------------------------------------------------------------------------------------------- rows

    def method(self, name: str) -> list[BenchmarkRow]:
        """`entity.NAME` and `relation.NAME`."""
        found = self.found([name])[name]
        rows = [
            share(f"entity.{name}", found.entity, found.groups),
            share(f"relation.{name}", found.relation, found.groups),
        ]
        return noted(rows, NOTES[TAUGHT[name].captions] if name in TAUGHT else "", found)

    def gains(self) -> list[BenchmarkRow]:
        """Direction only and captions without leaks, over the paper's way."""
        both = self.found(["ours", "reversion"])
        ours, paper = both["ours"], both["reversion"]
        rows = [
            gain("ours.entity_gain", ours.entity, paper.entity, ours.groups, self.goal(15)),
            gain("ours.relation_loss", ours.relation, paper.relation, ours.groups, self.goal(-8)),
        ]
        return noted(rows, "", ours, paper)

    def ten(self) -> list[BenchmarkRow]:
        """The paper's way with as many pictures as it was published with."""
        found = self.found([TEN_PICTURES])[TEN_PICTURES]
        rows = [
            share(f"{TEN_PICTURES}.relation", found.relation, found.groups, self.goal(60)),
            share(f"{TEN_PICTURES}.entity", found.entity, found.groups),
        ]
        return noted(rows, "", found)

    def ablations(self) -> list[BenchmarkRow]:
        """Our way with and without one of its parts."""
        found = self.found(["ours", *(f"no_{name}" for name in ABLATIONS)])
        rows: list[BenchmarkRow] = []
        for name in ABLATIONS:
            on, off = found["ours"], found[f"no_{name}"]
            relation = gain(f"{name}.on_off", on.relation, off.relation, on.groups)
            entity = gain(f"{name}.entity_on_off", on.entity, off.entity, on.groups)
            rows += noted([relation, entity], "", on, off)
        return rows

    @property
    def parts(self) -> dict[str, Callable[[], list[BenchmarkRow]]]:
        """The headline first, so that a bench that is stopped has it."""
        first, rest = ["ours", "reversion"], [name for name in METHODS if name not in ("ours", "reversion")]
        return {
            **{name: partial(self.method, name) for name in first},
            "gains": self.gains,
            "ten": self.ten,
            "floor": partial(self.method, FLOOR),
            **{name: partial(self.method, name) for name in rest},
            "ablations": self.ablations,
        }


def shows(reading: Reading, relation: str, pair: tuple[str, str]) -> bool:
    """Whether a picture shows `relation`, its two things not having changed places where that matters."""
    turned = [thing.noun for thing in reading.things] == list(pair[::-1])
    return reading.layout == relation and not (turned and relation in DIRECTED)


def together(found: Sequence[Found]) -> Found:
    """Several runs as one."""
    every = ([value for one in found for value in getattr(one, name)] for name in ("entity", "relation", "groups"))
    return Found(*every, mean(one.doubt for one in found))


def noted(rows: Sequence[BenchmarkRow], note: str, *found: Found) -> list[BenchmarkRow]:
    """`rows` with what is to be known of them: `note`, and whether the judges often disagree."""
    doubt = max(one.doubt for one in found)
    said = [note] if note else []
    if doubt > DOUBTFUL:
        said.append(f"the judges disagree on {100 * doubt:.0f} % of the samples")
    return [replace(row, note="; ".join(said)) for row in rows]


def unseen_pairs(count: int) -> list[tuple[str, str]]:
    """The pairs of classes that `count` training pictures do not show, in either order."""
    shown = {frozenset(pictures.pair_of(index)) for index in range(count)}
    return [pair for pair in pictures.PAIRS if frozenset(pair) not in shown]


def parts(quick: bool) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    return Bench(Workshop(steps=40 if quick else STEPS), quick).parts
