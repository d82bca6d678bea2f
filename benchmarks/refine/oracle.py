"""A positive control of refinement: what it gains with a reward that is true.

The reward is the first scene reader's verdict, of the subject's looks and of all else that the prompt asks for; the
second reader judges, and never rewards. Where this gains nothing, the method is at fault; where it does and CLIP does
not, the reward is. Judged prompts are of the kinds that are learned, and none is learned itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ...core.values import Adapter, Picture, Prompt, PromptSet, content_key
from ...evaluation.metrics.metric import ModelMetric
from ...evaluation.reward import RewardModels, WeightedMetric
from ...pocket.models import judge
from ...pocket.models.reader import SceneReader
from ...pocket.world import pictures, world
from ...trainers.refine.method import RefinementGoal, refine_adapter
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import gain, share
from ..harness.workshop import Workshop, weights_key
from ..subject.sets import PromptCheck, prompt_checks, references
from ..subject.training_cases import SubjectRun
from .prompts import unseen_checks

if TYPE_CHECKING:
    from .bench import RefinementBenchmark

HALF = 50.0
REWARDING, JUDGING = 0, 1  # which of the judge's readers does what
PROMPTS = 94  # the stream of the prompts that are learned from
HELD_OUT = 3  # every how manyth of them is for the guards


@dataclass
class ReaderModel:
    """The rewarding reader, where metrics find their models."""

    reader: SceneReader
    model_id: str = f"pocket {judge.NAMES[REWARDING]}"

    def move(self, device: torch.device | str) -> None:
        self.reader.to(device)


@dataclass
class TrueReward(ModelMetric):
    """1 for the subject's looks and 1 for all else that the prompt asks for; `checks` by the prompt's text."""

    model: ReaderModel
    look: tuple[str, str, frozenset[str]]
    checks: dict[str, PromptCheck]
    name: str = "true reward"

    def scores(
        self, images: Sequence[Image.Image], prompts: Sequence[Prompt], references: Sequence[Image.Image]
    ) -> torch.Tensor:
        device = next(self.model.reader.parameters()).device
        read = judge.read(self.model.reader, judge.as_tensor(images).to(device))
        shown = (any(thing.look == self.look for thing in reading.things) for reading in read)
        passed = (self.checks[p.text].passes(reading, self.look[0]) for p, reading in zip(prompts, read, strict=True))
        return torch.tensor([float(a) + float(b) for a, b in zip(shown, passed, strict=True)])


@dataclass(frozen=True)
class TrueRewards:
    """The same as a refinement takes it."""

    run: SubjectRun
    checks: tuple[PromptCheck, ...]
    shop: Workshop
    references: tuple[Picture, ...] = ()
    folders: tuple[Any, ...] = field(default=(), init=False)

    @property
    def key(self) -> str:
        return content_key(
            "TrueReward", self.run.subject, [vars(c) for c in self.checks], weights_key(self.shop.weights)
        )

    def open(self, device: torch.device | str, references: Sequence[Image.Image], prompts: Sequence[Prompt] = ()):
        """The reader on the CPU; `RewardModels` moves it."""
        model = ReaderModel(SceneReader.from_pretrained(self.shop.weights / judge.NAMES[REWARDING]).eval())
        look = pictures.subject_named(self.run.subject).thing.look
        metric = TrueReward(model, look, {check.prompt: check for check in self.checks})
        return RewardModels((WeightedMetric(metric, "prompt"),), (model,), (), torch.device(device))


def oracle_rows(bench: RefinementBenchmark) -> list[BenchmarkRow]:
    """`refined.oracle`: the share of the room between start and ceiling, of subject and all that was asked in one.

    The ceiling is the base told the subject's looks in words that it knows.
    """
    runs = [SubjectRun(one.name, 0) for one in world.REPORTED_SUBJECTS[: bench.size.oracle_subjects]]
    each(bench.prepare, runs)
    sides = list(zip(*each(partial(_measured, bench), runs), strict=True))
    after, before, described = ([value for one in side for value in one] for side in sides)
    groups = [number for number, one in enumerate(sides[0]) for _ in one]
    rows = [
        share(f"refined.oracle.{name}", values, groups)
        for name, values in (("refined", after), ("start", before), ("described", described))
    ]
    floor, ceiling = mean(before), mean(described)
    if ceiling > floor:
        taken = 100 * (mean(after) - floor) / (ceiling - floor)
        note = f"{len(runs)} subjects, floor {floor:.1%}, ceiling {ceiling:.1%}; judged by a reader that never rewards"
        rows.append(BenchmarkRow("refined.oracle", taken, "%", "higher", bench.goal(HALF), note=note))
    return [*rows, gain("refined.oracle.gain", after, before, groups)]


def _measured(bench: RefinementBenchmark, run: SubjectRun) -> list[list[float]]:
    """For each judged prompt whether everything is right: refined, before, and of the base told the looks."""
    start, count = bench.start(run), bench.size.judged
    description = pictures.subject_named(run.subject).description
    checks, described = (prompt_checks(run.noun, f"{words} {run.noun}", count=count) for words in ("sks", description))
    sides = ((refined_by_truth(bench, run, start), checks), (start, checks), (None, described))
    return [judged(bench.shop, run, adapter, prompted) for adapter, prompted in sides]


def refined_by_truth(bench: RefinementBenchmark, run: SubjectRun, start: Adapter) -> Adapter:
    """The start with what the true reward taught it."""
    checks = learned_checks(run.noun, bench.size.judged, bench.size.oracle_prompts)
    own = [
        Prompt(check.prompt, check.prompt.replace(f"sks {run.noun}", run.noun), "train" if i % HELD_OUT else "held-out")
        for i, check in enumerate(checks)
    ]
    settings = replace(bench.settings(bench.size.budgets.headline), seed=run.seed)
    goal = RefinementGoal(PromptSet(tuple(own)), TrueRewards(run, checks, bench.shop))
    with bench.shop.locked(f"oracle_{run.subject}_{settings.key()[:16]}"):
        result = refine_adapter(
            bench.shop.base, start, goal, settings, bench.context("refined"), references(bench.shop.sets, run.subject)
        )
    assert result.combined is not None
    return result.combined


def learned_checks(noun: str, judged_count: int, count: int) -> tuple[PromptCheck, ...]:
    """Checks of the judged kinds in turn, none of which is judged: places, accessories, relations to other things."""
    rng, found = world.rng_of(PROMPTS, world.CLASSES.index(noun)), {}
    known = {check.prompt for check in unseen_checks(noun, judged_count)}
    places, accessories = list(world.PLACES), list(world.ACCESSORIES)
    others = [other for other in world.CLASSES if other != noun]

    def one_of(values: Sequence[str]) -> str:
        return values[int(rng.integers(len(values)))]

    while len(found) < count:
        place, kind = one_of(places), int(rng.integers(3))
        start, there = f"a photo of a sks {noun}", world.PLACES[place]
        check = PromptCheck(f"{start} {there}", place)
        if kind == 1:
            accessory = one_of(accessories)
            check = PromptCheck(f"{start} {world.ACCESSORIES[accessory]} {there}", place, accessory)
        elif kind == 2:
            layout, turned, other = one_of(list(world.LAYOUTS)), int(rng.integers(2)), one_of(others)
            words = f"{one_of(world.LAYOUTS[layout][turned])} a {other}"
            check = PromptCheck(f"{start} {words} {there}", place, None, layout, other, first=not turned)
        if check.prompt not in known:
            found[check.prompt] = check
    return tuple(found.values())


def judged(shop: Workshop, run: SubjectRun, adapter: Adapter | None, checks: Sequence[PromptCheck]) -> list[float]:
    """For each prompt whether the judging reader sees the subject and all else that is asked."""
    look = pictures.subject_named(run.subject).thing.look
    read = shop.read_samples(adapter, [check.prompt for check in checks], run.seed)[JUDGING]
    return [
        float(any(thing.look == look for thing in reading.things) and check.passes(reading, run.noun))
        for check, reading in zip(checks, read, strict=True)
    ]
