"""Cases of the subject bench, each run by one process: train an adapter, sample with it, and judge the samples.

Everything here is a value or a function of a module, so that it can be pickled. Results of the same pictures and
settings are read from disk, so that parts of the bench share the trainings that they have in common.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...core.values import Adapter, TrainingSet
from ...models.adapters.merge import GramSampling, fuse_adapters, sum_adapters
from ...models.open import open_base
from ...pocket.world import pictures, world
from ...trainers.auto.rules import MOST_PICTURES
from ...trainers.subject.settings import SubjectSettings
from ..harness.workshop import Workshop
from .sets import PromptCheck, combined_set, held_out, pasted, references

SubjectPair = tuple[str, str]
HEADLINE_PLACE = "beach"  # the place of all references of the headline
PLAIN: Mapping[str, Any] = {"token": "none", "text_encoder": False, "local_weight": 0.0}
"""DreamBooth by a LoRA of the denoiser: a rare word that stays as it is, and prior pictures"""
ATTENTION_LOSS: Mapping[str, Any] = {"local_weight": 0.05}
BLOCKS: Mapping[str, Any] = {"tuning": "orthogonal"}
SECOND_SUBJECT = {"cat_striped": "car_patched"}  # the subject that is trained together with another one
WORDS = ("sks", "zwx")
# Denoiser evaluations of a training in a table for each usual step; a plain step takes 24.
TABLE_EVALUATIONS = 15


@dataclass(frozen=True)
class SubjectRun:
    """One subject and seed."""

    subject: str
    seed: int

    @property
    def noun(self) -> str:
        return pictures.subject_named(self.subject).thing.noun


@dataclass(frozen=True)
class TrainingCase:
    """A training (`training_set` lists the kinds of sets) with its settings, and the prompts that judge it."""

    run: SubjectRun
    kind: str
    checks: tuple[PromptCheck, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fidelities:
    """For each prompt whether the subject is right, whether all else in it is, and whether the judges disagree."""

    subject: list[float]
    prompt: list[float]
    doubts: list[float]

    @property
    def both(self) -> list[float]:
        """For each prompt whether the subject and all else in it are right."""
        return [a * b for a, b in zip(self.subject, self.prompt, strict=True)]

    @property
    def point(self) -> float:
        """The mean of both fidelities."""
        return (statistics.mean(self.subject) + statistics.mean(self.prompt)) / 2


def training_set(shop: Workshop, run: SubjectRun, kind: str) -> TrainingSet:
    """The pictures of a run: its references in several places or in one, with composites, with the subject's looks in
    words, or with a second subject."""
    place = HEADLINE_PLACE if kind in ("one place", "one place, pasted", "described") else None
    one = references(shop.sets, run.subject, place, WORDS[0], kind == "described")
    if kind.endswith("pasted"):
        return pasted(shop.sets, one, run.seed)
    if kind == "two":
        other = references(shop.sets, SECOND_SUBJECT.get(run.subject, "cat_striped"), None, WORDS[1])
        return combined_set(shop.sets, [one, other], run.seed)
    return one


def train_case(shop: Workshop, case: TrainingCase) -> Adapter:
    """The adapter of a case, trained with the base's pictures of the class beside those of the subject."""
    chosen = shop.with_priors(training_set(shop, case.run, case.kind))
    return shop.train(chosen, seed=case.run.seed, **case.settings)


def train_and_judge(shop: Workshop, case: TrainingCase) -> Fidelities:
    """Train and judge."""
    return judge_fidelities(shop, case.run, train_case(shop, case), case.checks)


def judge_fidelities(
    shop: Workshop, run: SubjectRun, adapter: Adapter | None, checks: Sequence[PromptCheck]
) -> Fidelities:
    """Fidelities of an adapter's samples to a run's subject and to the prompts."""
    look = pictures.subject_named(run.subject).thing.look
    readings, doubts = shop.judge_samples(adapter, [check.prompt for check in checks], run.seed)
    subject = [float(any(thing.look == look for thing in reading.things)) for reading in readings]
    return Fidelities(
        subject,
        [float(check.passes(reading, run.noun)) for check, reading in zip(checks, readings, strict=True)],
        doubts,
    )


def attention_change(shop: Workshop, case: TrainingCase) -> tuple[float, float]:
    """IoU of the subject's attention with its mask on held-out pictures, before and after training."""
    held_out_set = held_out(shop.sets, case.run.subject)
    return shop.attention_iou(None, held_out_set), shop.attention_iou(train_case(shop, case), held_out_set)


# ------------------------------------------------------------------------------------------------ several subjects


def reference_sets(shop: Workshop, pair: SubjectPair) -> list[TrainingSet]:
    """The references of each of two subjects, with identifiers of their own."""
    return [references(shop.sets, name, None, word) for name, word in zip(pair, WORDS, strict=True)]


def judge_joint(shop: Workshop, job: tuple[SubjectPair, int, bool]) -> tuple[list[float], list[float]]:
    """`judge_both` of two subjects trained jointly: with composites and L_local, or plainly."""
    pair, seed, composites = job
    settings = PLAIN | ATTENTION_LOSS | {"composite_share": 0.5} if composites else PLAIN
    made = combined_set(shop.sets, reference_sets(shop, pair), seed, composites)
    return judge_both(shop, shop.train(shop.with_priors(made), seed=seed, **settings), pair, seed)


def judge_described(shop: Workshop, pair: SubjectPair) -> tuple[list[float], list[float]]:
    """`judge_both` of the base alone with the looks in words: the most that it can draw of two things."""
    return judge_both(shop, None, pair, 0, [pictures.subject_named(name).description for name in pair])


def judge_both(
    shop: Workshop, adapter: Adapter | None, pair: SubjectPair, seed: int, calls: Sequence[str] = WORDS
) -> tuple[list[float], list[float]]:
    """Whether each sample shows both subjects right, in every relation and either order; and the disagreements.

    `calls` is what stands before their nouns in the prompts.
    """
    pair_looks = [pictures.subject_named(name).thing.look for name in pair]
    words = [f"a {call} {pictures.subject_named(name).thing.noun}" for name, call in zip(pair, calls, strict=True)]
    relations = [layout[0][0] for layout in world.LAYOUTS.values()]
    prompts = [
        f"a photo of {words[turn]} {relation} {words[1 - turn]} {there}"
        for relation in relations
        for turn in (0, 1)
        for there in list(world.PLACES.values())[:3]
    ]
    readings, doubts = shop.judge_samples(adapter, prompts, seed)
    return [float(all(any(t.look == look for t in r.things) for look in pair_looks)) for r in readings], doubts


def train_separately(shop: Workshop, pair: SubjectPair, seed: int, blocks: bool) -> list[tuple[Adapter, float]]:
    """Two subjects, each trained by itself with an identifier of its own."""
    adapters = []
    for number, one in enumerate(reference_sets(shop, pair)):
        settings = PLAIN | (BLOCKS | {"subject_block": number} if blocks else {})
        adapters.append((shop.train(shop.with_priors(one), seed=seed, **at_equal_cost(shop, settings)), 1.0))
    return adapters


def judge_merged(shop: Workshop, job: tuple[SubjectPair, int, str]) -> tuple[list[float], list[float]]:
    """`judge_both` of adapters trained separately and then fused, summed, or summed from blocks ("orthogonal")."""
    pair, seed, way = job
    adapters = train_separately(shop, pair, seed, way == "orthogonal")
    if way != "fused":
        return judge_both(shop, sum_adapters(adapters), pair, seed)
    with open_base(shop.base, shop.device) as model:
        one = fuse_adapters(model, adapters, GramSampling())[0]
    return judge_both(shop, one, pair, seed)


# ----------------------------------------------------------------------------------------------------- equal cost


def evaluations_per_step(settings: Mapping[str, Any]) -> int:
    """Denoiser evaluations of one step: a forward of a row counts 1, its backward 2, the base's forward of DCO 1 more.

    The batch is `auto`'s for a network as small as the pocket's. `settings` are those of `Workshop.train`.
    """
    chosen = SubjectSettings.from_mapping({name: value for name, value in settings.items() if name != "method"})
    rows = (chosen.batch_size or MOST_PICTURES) * (2 if chosen.prior_weight else 1)
    return 3 * rows + (rows if chosen.objective == "dco" else 0)


def at_equal_cost(shop: Workshop, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with as many steps as a training in a table may cost."""
    return {**settings, "steps": TABLE_EVALUATIONS * shop.steps // evaluations_per_step(settings)}


def class_checks(checks: Sequence[PromptCheck], noun: str) -> tuple[PromptCheck, ...]:
    """The same prompts of the class itself, without the identifier."""
    return tuple(replace(check, prompt=check.prompt.replace(f"{WORDS[0]} {noun}", noun)) for check in checks)
