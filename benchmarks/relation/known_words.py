"""Words that the base knows, withheld and learned again from pictures: whether relation inversion works at all.

A word of a layout ("on") is hidden behind <R>, which begins at "and" and is steered to none of the layout's words.
What is learned is compared on unseen pairs of things, with the same seeds, with the word itself (the ceiling) and with
"and" (the floor); the share of the room between them that is regained is the row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean

from ...augmentation.captions.leaks import RELATION_WORDS
from ...augmentation.images.relation_pictures import relation_from_folder
from ...core.statistics import Interval
from ...core.values import Adapter
from ...pocket.models.judge import SceneReading, same_scene
from ...pocket.world import pictures, world
from ...trainers.context import TrainingContext
from ...trainers.relation.method import RelationTraining
from ...trainers.relation.settings import RelationSettings
from ...trainers.run import train_with
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import gain, row
from ..harness.workshop import Workshop
from .sets import WORD, unseen_pairs

log = logging.getLogger(__name__)

FLOOR_WORD = "and"
FEW, MANY = 2, 10
JUDGED = 36
GOALS = {MANY: 95.0, FEW: 90.0}
ENTITY_GOAL = -5.0


@dataclass(frozen=True)
class Wording:
    """A side of a layout: "on" names the upper thing first, "under" (turned) the lower one."""

    layout: str
    turned: bool

    @property
    def word(self) -> str:
        """The first word that the base has for it."""
        return world.LAYOUTS[self.layout][self.turned][0]

    def shown(self, reading: SceneReading, pair: tuple[str, str]) -> bool:
        """Whether a picture of "a FIRST <R> a SECOND" shows the layout, in the order of the words."""
        nouns = [thing.noun for thing in reading.things]
        orders = [list(pair[::-1] if self.turned else pair)]
        if world.LAYOUTS[self.layout][0] == world.LAYOUTS[self.layout][1]:
            orders.append(orders[0][::-1])
        return reading.layout == self.layout and nouns in orders


WORDINGS = tuple(
    Wording(layout, turned)
    for layout, (one, other) in world.LAYOUTS.items()
    for turned in ((False,) if one == other else (False, True))
)


@dataclass(frozen=True)
class Scores:
    """For each prompt whether the picture shows the relation, and whether it shows both things."""

    relation: list[float]
    entity: list[float]


@dataclass(frozen=True)
class KnownWordsBenchmark:
    """The measurement: all wordings; a quick one has the first.

    Args:
        settings: of Train Relation; the default recipe where empty.
    """

    shop: Workshop
    quick: bool
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def wordings(self) -> Sequence[Wording]:
        return WORDINGS[: 1 if self.quick else None]

    def train(self, wording: Wording, count: int) -> Adapter:
        """The word that Train Relation learns from `count` pictures of a wording."""
        name = f"{wording.layout}_{'turned' if wording.turned else 'straight'}_{count}"
        folder = self.shop.sets / f"known_{name}"
        with self.shop.locked(f"known_{name}"):
            if not folder.is_dir():
                pictures.write_relation(folder, wording.layout, count, turned=wording.turned)
        made = relation_from_folder(folder, WORD)
        chosen = RelationSettings.from_mapping({**self.settings, "preview_prompt": made.references[0].caption})
        context = TrainingContext(self.shop.folder / "trained", self.shop.device, name="relation")
        result = train_with(withheld(wording.layout)(), self.shop.base, made, chosen, context)
        log.info("%s instead of %r from %d: %.0f s", WORD, wording.word, count, result.seconds)
        return result.adapter

    def judge(self, item: tuple[Wording, int | str]) -> Scores:
        """Scores of the word learned from so many pictures, or of a word of the base."""
        wording, source = item
        adapter, word = (None, source) if isinstance(source, str) else (self.train(wording, source), WORD)
        pairs = unseen_pairs(MANY)[:JUDGED]
        places = list(world.PLACES.values())
        prompts = [f"a {a} {word} a {b} {places[i % len(places)]}" for i, (a, b) in enumerate(pairs)]
        readings, _ = self.shop.judge_samples(adapter, prompts, same=same_scene)
        both = list(zip(readings, pairs, strict=True))
        return Scores(
            [float(wording.shown(reading, pair)) for reading, pair in both],
            [float({thing.noun for thing in reading.things} == set(pair)) for reading, pair in both],
        )

    def judge_all(self, sources: Sequence[int | str]) -> dict[Wording, list[Scores]]:
        """By wording the scores of its own word, of "and", and of each further source."""
        items = [(one, source) for one in self.wordings for source in (one.word, FLOOR_WORD, *sources)]
        scores = iter(each(self.judge, items))
        return {one: [next(scores) for _ in range(len(sources) + 2)] for one in self.wordings}

    def regained(self, count: int) -> list[BenchmarkRow]:
        """`relation.wordN`: the share of the own word's room that N pictures regain, in percent; `entitiesN` beside it.

        A wording whose own word is no better than "and" has no room and would be refused.
        """
        scores = self.judge_all([count])
        shares = []
        for wording, (own, floor, learned) in scores.items():
            room = mean(own.relation) - mean(floor.relation)
            if room <= 0:
                raise ValueError(f"the base draws {wording.word!r} no better than {FLOOR_WORD!r}: there is no room")
            shares.append((mean(learned.relation) - mean(floor.relation)) / room)
            log.info("%r from %d pictures: %.2f of its room", wording.word, count, shares[-1])
        groups = [number for number, one in enumerate(scores.values()) for _ in one[0].entity]
        own, learned = (sum((one[which].entity for one in scores.values()), []) for which in (0, 2))
        found = Interval(mean(shares), None, None, len(shares))  # an interval of five wordings would tell nothing
        return [
            row(f"relation.word{count}", found, "%", self.goal(GOALS[count]), 100),
            gain(f"relation.entities{count}", learned, own, groups, self.goal(ENTITY_GOAL)),
        ]

    def goal(self, value: float) -> float | None:
        return None if self.quick else value

    @property
    def parts(self) -> dict[str, Callable[[], list[BenchmarkRow]]]:
        return {f"word{count}": partial(self.regained, count) for count in (MANY, FEW)}


def withheld(layout: str) -> type[RelationTraining]:
    """Train Relation, steered to every preposition but those of `layout`, which the pictures alone shall teach."""
    own = {word for side in world.LAYOUTS[layout] for phrase in side for word in phrase.split()}

    class WithheldTraining(RelationTraining):
        name = f"relation_without_{layout}"
        prepositions = RELATION_WORDS - own

    return WithheldTraining
