"""Relation inversion on the pocket: hidden relations from a few pictures, judged on unseen pairs of things.

`entity.*` is the share of samples that show both things of the prompt, `relation.*` the share that show the relation,
in percent and as read by a scene reader. Where a relation has a direction, swapped things do not show it. All methods
get the same pictures, steps and batch.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean

from ...core.values import Adapter
from ...pocket.models.judge import SceneReading, same_scene
from ...pocket.world import world
from ...trainers.context import TrainingContext
from ...trainers.relation.method import RelationTraining, train_relation
from ...trainers.relation.settings import RelationSettings
from ...trainers.run import train_with
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import gain, share
from ..harness.workshop import Workshop
from .known_words import KnownWordsBenchmark
from .literal_adversary import LiteralTraining
from .sets import EXPANDED, LEAKING, PLAIN, WORD, set_of, unseen_pairs

log = logging.getLogger(__name__)

STEPS, FEW, MANY = 400, 2, 10
JUDGED = 40
DOUBTFUL = 0.05  # share of samples on which the judges disagree, above which a row has a note
# Hidden relations whose pictures show which thing is the first; two things that are tied look alike either way.
DIRECTED = frozenset(("dream", "framed"))


@dataclass(frozen=True)
class RelationMethod:
    """What is trained: settings of Train Relation, which captions, how many pictures, by which training."""

    settings: dict = field(default_factory=dict)
    captions: str = PLAIN
    count: int = FEW
    training: type[RelationTraining] = RelationTraining


PAPER = {"token": "free"}
OURS = {"token": "direction"}
FLOOR, BEYOND = "base_and", "beyond"
METHODS: dict[str, RelationMethod] = {
    "ours": RelationMethod(OURS, EXPANDED),
    "reversion": RelationMethod(PAPER),
    "captions": RelationMethod(PAPER, LEAKING),
    "gan_literal": RelationMethod(PAPER | {"adversarial": "sensible"}, LEAKING, training=LiteralTraining),
    "gan_sensible": RelationMethod(PAPER | {"adversarial": "sensible"}, LEAKING),
    "gan_sequential": RelationMethod(PAPER | {"adversarial": "sensible", "adversarial_order": "sequence"}, LEAKING),
    "ours_adapter": RelationMethod(OURS | {"high_noise_rank": 16}, EXPANDED),
}
MANY_PICTURES = "reversion10"
ABLATIONS = {"steering": {"steering_weight": 0.0}, "focal": {"focal": 0.0}}
TRAINED_METHODS = (
    METHODS
    | {MANY_PICTURES: RelationMethod(PAPER, PLAIN, MANY)}
    | {BEYOND: RelationMethod(OURS | {"high_noise_rank": 16, "steps": RelationSettings().steps}, EXPANDED)}
    | {f"no_{name}": RelationMethod(OURS | off, EXPANDED) for name, off in ABLATIONS.items()}
)
NOTES = {
    LEAKING: "a third of the captions tell the relation, as the report's do",
    EXPANDED: "no caption tells the relation",
    PLAIN: "",
}


@dataclass(frozen=True)
class RelationRun:
    """One hidden relation and seed."""

    relation: str
    seed: int


@dataclass(frozen=True)
class RelationScores:
    """For each sample whether it shows both things, whether the relation, and its run; the judges' disagreement."""

    entity: list[float]
    relation: list[float]
    groups: list[RelationRun]
    doubt: float


@dataclass(frozen=True)
class RelationBenchmark:
    """The measurement: all relations and two seeds; a quick one has the first of each."""

    shop: Workshop
    quick: bool

    @property
    def runs(self) -> list[RelationRun]:
        relations, seeds = list(world.HIDDEN), range(2)
        if self.quick:
            relations, seeds = relations[:1], range(1)
        return [RelationRun(relation, seed) for relation in relations for seed in seeds]

    def goal(self, value: float) -> float | None:
        return None if self.quick else value

    # ------------------------------------------------------------------------------------------- training and judging

    def train(self, name: str, run: RelationRun) -> Adapter | None:
        """The word that a method learns; None for the floor. A finished training is read from disk."""
        if name == FLOOR:
            return None
        method = TRAINED_METHODS[name]
        settings = RelationSettings.from_mapping({"steps": self.shop.steps, "seed": run.seed, **method.settings})
        with self.shop.locked(f"relation_{run.relation}_{method.count}"):
            set_folder = self.shop.sets / f"{run.relation}_{method.count}"
            made = set_of(set_folder, run.relation, method.count, method.captions)
        base, context = self.shop.base, TrainingContext(self.shop.folder / "trained", self.shop.device, name="relation")
        with self.shop.locked(f"word_{name}_{run.relation}_{run.seed}"):
            if method.captions == LEAKING:  # Train Relation itself would drop the leaking ones
                settings = replace(settings, preview_prompt=made.references[0].caption)
                result = train_with(method.training(), base, made, settings, context)
            else:
                result = train_relation(base, made, settings, context)
        log.info("%s of %s %d: %.0f s", name, run.relation, run.seed, result.seconds)
        return result.adapter

    def judge(self, item: tuple[str, RelationRun]) -> RelationScores:
        """Scores of a method's word in prompts with pairs of things that no training picture shows together."""
        name, run = item
        adapter = self.train(name, run)
        count = TRAINED_METHODS[name].count if name in TRAINED_METHODS else FEW
        pairs = unseen_pairs(count)[: 16 if self.quick else JUDGED]
        places = list(world.PLACES.values())
        word = WORD if adapter else "and"
        prompts = [f"a {a} {word} a {b} {places[i % len(places)]}" for i, (a, b) in enumerate(pairs)]
        readings, doubts = self.shop.judge_samples(adapter, prompts, run.seed, same=same_scene)
        entity = [
            float({thing.noun for thing in reading.things} == set(pair))
            for reading, pair in zip(readings, pairs, strict=True)
        ]
        relation = [
            float(shows_relation(reading, run.relation, pair)) for reading, pair in zip(readings, pairs, strict=True)
        ]
        return RelationScores(entity, relation, [run] * len(pairs), mean(doubts))

    def judge_all(self, names: Sequence[str]) -> dict[str, RelationScores]:
        """Scores of all runs of some methods, in parallel on all processors."""
        items = [(name, run) for name in names for run in self.runs]
        results = dict(zip(items, each(self.judge, items), strict=True))
        return {name: merge_scores([results[name, run] for run in self.runs]) for name in names}

    # ---------------------------------------------------------------------------------------------------------- rows

    def method(self, name: str) -> list[BenchmarkRow]:
        """`entity.NAME` and `relation.NAME`."""
        scores = self.judge_all([name])[name]
        rows = [
            share(f"entity.{name}", scores.entity, scores.groups),
            share(f"relation.{name}", scores.relation, scores.groups),
        ]
        return with_notes(rows, NOTES[TRAINED_METHODS[name].captions] if name in TRAINED_METHODS else "", scores)

    def gains(self) -> list[BenchmarkRow]:
        """Gains of a direction-only word and captions without leaks over the paper's method."""
        both = self.judge_all(["ours", "reversion"])
        ours, paper = both["ours"], both["reversion"]
        rows = [
            gain("ours.entity_gain", ours.entity, paper.entity, ours.groups, self.goal(15)),
            gain("ours.relation_loss", ours.relation, paper.relation, ours.groups, self.goal(-8)),
        ]
        return with_notes(rows, "", ours, paper)

    def many_pictures(self) -> list[BenchmarkRow]:
        """The paper's method with as many pictures as in its publication."""
        scores = self.judge_all([MANY_PICTURES])[MANY_PICTURES]
        rows = [
            share(f"{MANY_PICTURES}.relation", scores.relation, scores.groups, self.goal(60)),
            share(f"{MANY_PICTURES}.entity", scores.entity, scores.groups),
        ]
        return with_notes(rows, "", scores)

    def beyond(self) -> list[BenchmarkRow]:
        """What a word with low-rank keys and values gains over "and" where the base has no word: each hidden relation,
        and their mean, after as many steps as Train Relation takes."""
        scores = self.judge_all([BEYOND, FLOOR])
        ours, floor = scores[BEYOND], scores[FLOOR]
        rows = []
        for relation in dict.fromkeys(run.relation for run in ours.groups):
            own = [n for n, run in enumerate(ours.groups) if run.relation == relation]
            after, before = ([side.relation[n] for n in own] for side in (ours, floor))
            rows.append(gain(f"relation.beyond.{relation}", after, before, [ours.groups[n] for n in own]))
        total = gain("relation.beyond", ours.relation, floor.relation, ours.groups, self.goal(25))
        return with_notes([total, *rows], "", ours, floor)

    def ablations(self) -> list[BenchmarkRow]:
        """Our method with and without one of its parts."""
        scores = self.judge_all(["ours", *(f"no_{name}" for name in ABLATIONS)])
        rows: list[BenchmarkRow] = []
        for name in ABLATIONS:
            on, off = scores["ours"], scores[f"no_{name}"]
            relation = gain(f"{name}.on_off", on.relation, off.relation, on.groups)
            entity = gain(f"{name}.entity_on_off", on.entity, off.entity, on.groups)
            rows += with_notes([relation, entity], "", on, off)
        return rows

    @property
    def parts(self) -> dict[str, Callable[[], list[BenchmarkRow]]]:
        """The headline first, so that a bench that is stopped has it."""
        first, rest = ["ours", "reversion"], [name for name in METHODS if name not in ("ours", "reversion")]
        return {
            **{name: partial(self.method, name) for name in first},
            "gains": self.gains,
            "ten": self.many_pictures,
            "floor": partial(self.method, FLOOR),
            "beyond": self.beyond,
            **{name: partial(self.method, name) for name in rest},
            "ablations": self.ablations,
        }


def shows_relation(reading: SceneReading, relation: str, pair: tuple[str, str]) -> bool:
    """Whether a picture shows `relation`, with its two things not swapped where the order matters."""
    swapped = [thing.noun for thing in reading.things] == list(pair[::-1])
    return reading.layout == relation and not (swapped and relation in DIRECTED)


def merge_scores(scores: Sequence[RelationScores]) -> RelationScores:
    """The scores of several runs together."""
    every = ([value for part in scores for value in getattr(part, name)] for name in ("entity", "relation", "groups"))
    return RelationScores(*every, mean(part.doubt for part in scores))


def with_notes(rows: Sequence[BenchmarkRow], note: str, *scores: RelationScores) -> list[BenchmarkRow]:
    """`rows` with a note: `note` itself, and whether the judges often disagree."""
    doubt = max(part.doubt for part in scores)
    notes = [note] if note else []
    if doubt > DOUBTFUL:
        notes.append(f"the judges disagree on {100 * doubt:.0f} % of the samples")
    return [replace(row, note="; ".join(notes)) for row in rows]


def parts(quick: bool) -> dict[str, Callable[[], list[BenchmarkRow]]]:
    shop = Workshop(steps=40 if quick else STEPS)
    return {**KnownWordsBenchmark(shop, quick).parts, **RelationBenchmark(shop, quick).parts}
