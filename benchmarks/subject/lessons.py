"""What one process of the bench of subjects does: teach an adapter, sample with it, and read what it shows.

All here is a value or a function of a module, so that it can be sent to another process. What was done before with the
same pictures and settings is found on disk, so parts of the bench that ask for the same training share it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.settings import SubjectSettings
from ...core.values import Adapter, TrainingSet
from ...models.adapters.merge import GramSampling, fuse_adapters, sum_adapters
from ...models.open import open_base
from ...pocket.world import pictures, world
from ...trainers.auto.rules import MOST_PICTURES
from ..harness.workshop import Workshop
from .sets import Ask, held_out, pasted, references, together

Pair = tuple[str, str]
PLACE = "beach"
"""where all references of the headline are"""
PLAIN: Mapping[str, Any] = {}
"""the default recipe"""
LOCAL: Mapping[str, Any] = {"local_weight": 0.05}
BLOCKS: Mapping[str, Any] = {"tuning": "orthogonal"}
SECOND = {"cat_striped": "car_patched"}
"""the subject that joins another where several are taught"""
WORDS = ("sks", "zwx")
TABLE_EVALUATIONS = 15
"""denoiser evaluations of a training in a table for each usual step, of which a plain one takes 24"""


@dataclass(frozen=True)
class Run:
    """One subject and seed."""

    subject: str
    seed: int

    @property
    def noun(self) -> str:
        return pictures.subject_named(self.subject).thing.noun


@dataclass(frozen=True)
class Lesson:
    """What a run is taught (`taught_set` lists the kinds of sets), how, and what is asked for afterwards."""

    run: Run
    kind: str
    asks: tuple[Ask, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """For each prompt whether the subject is right, whether all that was asked for is, and whether judges differ."""

    subject: list[float]
    prompt: list[float]
    doubts: list[float]

    @property
    def both(self) -> list[float]:
        """For each prompt whether all is right at once."""
        return [a * b for a, b in zip(self.subject, self.prompt, strict=True)]

    @property
    def point(self) -> float:
        """The mean of both fidelities."""
        return (statistics.mean(self.subject) + statistics.mean(self.prompt)) / 2


def taught_set(shop: Workshop, run: Run, kind: str) -> TrainingSet:
    """The pictures of a run: its references in several places or in one, with composites, with the subject's looks in
    words, or with a second subject."""
    place = PLACE if kind in ("one place", "one place, pasted", "described") else None
    one = references(shop.sets, run.subject, place, WORDS[0], kind == "described")
    if kind.endswith("pasted"):
        return pasted(shop.sets, one, run.seed)
    if kind == "two":
        other = references(shop.sets, SECOND.get(run.subject, "cat_striped"), None, WORDS[1])
        return together(shop.sets, [one, other], run.seed)
    return one


def taught(shop: Workshop, lesson: Lesson) -> Adapter:
    """The adapter of a lesson, with the base's pictures of the class beside those of the subject."""
    chosen = shop.with_priors(taught_set(shop, lesson.run, lesson.kind))
    return shop.train(chosen, seed=lesson.run.seed, **lesson.settings)


def learn(shop: Workshop, lesson: Lesson) -> Shown:
    """Teach and read."""
    return shown(shop, lesson.run, taught(shop, lesson), lesson.asks)


def shown(shop: Workshop, run: Run, adapter: Adapter | None, asks: Sequence[Ask]) -> Shown:
    """What an adapter shows of a run's subject."""
    look = pictures.subject_named(run.subject).thing.look
    read, doubts = shop.judged(adapter, [ask.prompt for ask in asks], run.seed)
    subject = [float(any(thing.look == look for thing in reading.things)) for reading in read]
    return Shown(subject, [float(ask.met(reading, run.noun)) for ask, reading in zip(asks, read, strict=True)], doubts)


def looked_at(shop: Workshop, lesson: Lesson) -> tuple[float, float]:
    """How well the subject's attention meets its mask on held-out pictures, before and after a lesson."""
    looked = held_out(shop.sets, lesson.run.subject)
    return shop.attention_iou(None, looked), shop.attention_iou(taught(shop, lesson), looked)


# ------------------------------------------------------------------------------------------------ several subjects


def sets_of(shop: Workshop, pair: Pair) -> list[TrainingSet]:
    """The references of each of two subjects, with identifiers of their own."""
    return [references(shop.sets, name, None, word) for name, word in zip(pair, WORDS, strict=True)]


def joint(shop: Workshop, asked: tuple[Pair, int, bool]) -> tuple[list[float], list[float]]:
    """`shows_both` of two subjects taught together: with composites and L_local, or plainly."""
    pair, seed, composites = asked
    how = PLAIN | LOCAL | {"composite_share": 0.5} if composites else PLAIN
    made = together(shop.sets, sets_of(shop, pair), seed, composites)
    return shows_both(shop, shop.train(shop.with_priors(made), seed=seed, **how), pair, seed)


def told(shop: Workshop, pair: Pair) -> tuple[list[float], list[float]]:
    """`shows_both` of the base alone, which is told the looks in words: what it can draw of two things at most."""
    return shows_both(shop, None, pair, 0, [pictures.subject_named(name).description for name in pair])


def shows_both(
    shop: Workshop, adapter: Adapter | None, pair: Pair, seed: int, calls: Sequence[str] = WORDS
) -> tuple[list[float], list[float]]:
    """Whether each sample shows both subjects as they are, in every relation and either order; and the doubts.

    `calls` is what stands before their nouns in the prompts.
    """
    looks = [pictures.subject_named(name).thing.look for name in pair]
    words = [f"a {call} {pictures.subject_named(name).thing.noun}" for name, call in zip(pair, calls, strict=True)]
    relations = [layout[0][0] for layout in world.LAYOUTS.values()]
    prompts = [
        f"a photo of {words[turn]} {relation} {words[1 - turn]} {there}"
        for relation in relations
        for turn in (0, 1)
        for there in list(world.PLACES.values())[:3]
    ]
    read, doubts = shop.judged(adapter, prompts, seed)
    return [float(all(any(t.look == look for t in r.things) for look in looks)) for r in read], doubts


def apart(shop: Workshop, pair: Pair, seed: int, blocks: bool) -> list[tuple[Adapter, float]]:
    """Two subjects, each trained by itself with an identifier of its own."""
    found = []
    for number, one in enumerate(sets_of(shop, pair)):
        how = PLAIN | (BLOCKS | {"subject_block": number} if blocks else {})
        found.append((shop.train(shop.with_priors(one), seed=seed, **at_one_cost(shop, how)), 1.0))
    return found


def joined(shop: Workshop, asked: tuple[Pair, int, str]) -> tuple[list[float], list[float]]:
    """`shows_both` of adapters that were trained apart and then fused, summed, or summed from blocks ("orthogonal")."""
    pair, seed, way = asked
    adapters = apart(shop, pair, seed, way == "orthogonal")
    if way != "fused":
        return shows_both(shop, sum_adapters(adapters), pair, seed)
    with open_base(shop.base, shop.device) as networks:
        one = fuse_adapters(networks, adapters, GramSampling())[0]
    return shows_both(shop, one, pair, seed)


# ------------------------------------------------------------------------------------------------------- one cost


def evaluations(settings: Mapping[str, Any]) -> int:
    """Of the denoiser in one step: a row forward counts 1, its way back 2, the base's own forward of DCO 1 more.

    The batch is `auto`'s for a network as small as the pocket's.
    """
    chosen = SubjectSettings.from_mapping(settings)
    rows = (chosen.batch_size or MOST_PICTURES) * (2 if chosen.prior_weight else 1)
    return 3 * rows + (rows if chosen.objective == "dco" else 0)


def at_one_cost(shop: Workshop, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with as many steps as a training in a table may cost."""
    return {**settings, "steps": TABLE_EVALUATIONS * shop.steps // evaluations(settings)}


def of_class(asks: Sequence[Ask], noun: str) -> tuple[Ask, ...]:
    """The same prompts of the class itself, which never saw the identifier."""
    return tuple(replace(ask, prompt=ask.prompt.replace(f"{WORDS[0]} {noun}", noun)) for ask in asks)
