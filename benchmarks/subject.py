"""Subject training on the pocket: subjects that the base never saw, judged by the scene readers.

Subject fidelity is the share of samples that show class, pattern and colours right; prompt fidelity the share with the
asked place, accessory and relation. Differences are paired by prompt and seed; intervals are bootstrapped over runs.
The two sides of a comparison differ in what the row names and in nothing else.
"""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..evaluation.metrics import Interval, bootstrap_interval, paired_interval
from ..models.values import Adapter, TrainingSet
from ..pocket import pictures, world
from . import Row
from ._subject_choice import auto_gap, presets
from ._subject_runs import Workshop
from ._subject_sets import Ask, asks, held_out, pasted, references, together
from ._subject_tuning import BASELINES, fused_rows, optimiser_rows

log = logging.getLogger(__name__)

STEPS = 400
PLACE = "beach"
"""where all references of the headline are"""
PLAIN = {"parameter_set": "attention"}
LOCAL = {"local_weight": 0.05}
TUNED = {
    "cross": {"parameter_set": "cross"},
    "cross_self": {"parameter_set": "attention"},
    "cross_self_text": {"parameter_set": "attention", "text_encoder": True},
}
PAIRS = (("cat_striped", "car_patched"), ("bird_dotted", "house_dotted"), ("fish_striped", "bottle_two"))


@dataclass(frozen=True)
class Run:
    """One subject and seed."""

    subject: str
    seed: int

    @property
    def noun(self) -> str:
        return pictures.subject_named(self.subject).thing.noun


@dataclass(frozen=True)
class Bench:
    """What is measured, and on what: all subjects and seeds for headlines, one subject and two seeds for tables."""

    shop: Workshop
    quick: bool

    @property
    def seeds(self) -> range:
        return range(1 if self.quick else 2)

    @property
    def all_runs(self) -> list[Run]:
        return self._runs(world.SUBJECTS)

    @property
    def rare_runs(self) -> list[Run]:
        return self._runs([subject for subject in world.SUBJECTS if subject.rare])

    @property
    def table_runs(self) -> list[Run]:
        return self._runs(world.SUBJECTS[:1])

    @property
    def one_each(self) -> list[Run]:
        """All subjects with the first seed."""
        return [run for run in self.all_runs if run.seed == 0]

    def _runs(self, subjects: Sequence[world.Subject]) -> list[Run]:
        return [Run(one.name, seed) for one in subjects[: 1 if self.quick else None] for seed in self.seeds]

    def goal(self, value: float) -> float | None:
        """A goal is set only by the whole bench."""
        return None if self.quick else value

    # ------------------------------------------------------------------------------------------------- fidelities

    def fidelities(self, run: Run, adapter: Adapter | None, wanted: Sequence[Ask]) -> tuple[list[float], list[float]]:
        """For each prompt whether the subject is right, and whether all that was asked for is."""
        look = pictures.subject_named(run.subject).thing.look
        read = self.shop.readings(adapter, [ask.prompt for ask in wanted], run.seed)
        subject = [float(any(thing.look == look for thing in reading.things)) for reading in read]
        return subject, [float(ask.met(reading, run.noun)) for ask, reading in zip(wanted, read, strict=True)]

    def both_rows(self, name: str, runs: Sequence[Run], teach: Callable[[Run], Adapter]) -> list[Row]:
        """`name`.subject and `name`.prompt of adapters of some kind."""
        subject, prompt, groups = [], [], []
        for run in runs:
            shown, met = self.fidelities(run, teach(run), asks(run.noun, f"sks {run.noun}"))
            subject, prompt, groups = subject + shown, prompt + met, groups + [run] * len(met)
        return [share(f"{name}.subject", subject, groups), share(f"{name}.prompt", prompt, groups)]

    # ------------------------------------------------------------------------------------------------------- rows

    def taught(self, run: Run, **settings) -> Adapter:
        """DreamBooth with priors on the subject's references in several places."""
        return self.shop.train(
            self.shop.with_priors(references(self.shop.sets, run.subject)), seed=run.seed, **settings
        )

    def priors(self) -> list[Row]:
        """How much of the class itself turns into the subject, with priors over without."""
        shares: list[list[float]] = [[], []]
        for run in self.one_each:
            plain = [replace_trigger(ask, run.noun) for ask in asks(run.noun, f"sks {run.noun}")]
            for side, weight in enumerate((1.0, 0.0)):
                adapter = self.taught(run, prior_weight=weight, **PLAIN)
                shares[side].append(statistics.mean(self.fidelities(run, adapter, plain)[0]))
        return [ratio("priors.drift_ratio", *shares, self.goal(0.33))]

    def poster(self) -> list[Row]:
        """References in one place, prompts in new places: paste and L_local against plain DreamBooth."""
        sides: list[list[list[float]]] = [[[], []], [[], []]]
        groups: list[Run] = []
        for run in self.all_runs:
            wanted = asks(run.noun, f"sks {run.noun}", without=(PLACE,))
            one = references(self.shop.sets, run.subject, PLACE)
            sets = (pasted(self.shop.sets, one, run.seed), one)
            for side, (made, settings) in enumerate(zip(sets, (LOCAL, {}), strict=True)):
                adapter = self.shop.train(self.shop.with_priors(made), seed=run.seed, **PLAIN, **settings)
                for kind, values in enumerate(self.fidelities(run, adapter, wanted)):
                    sides[side][kind] += values
            groups += [run] * len(wanted)
        subject, prompt = ([sides[side][kind] for side in (0, 1)] for kind in (0, 1))
        return [
            gain("poster.prompt_gain", *prompt, groups, self.goal(15)),
            gain("poster.subject_loss", *subject, groups, self.goal(-8)),
        ]

    def tuning(self) -> list[Row]:
        """Subject fidelity by what is tuned."""
        found = {name: self.both_rows(name, self.table_runs, self.teacher(how))[0] for name, how in TUNED.items()}
        return [replace(one, name=f"tuning.{name}") for name, one in found.items()]

    def local(self) -> list[Row]:
        """How well the subject's attention meets its mask on held-out pictures, before and after L_local."""
        before, after = [], []
        for run in self.one_each:
            looked = held_out(self.shop.sets, run.subject)
            before.append(self.shop.attention_iou(None, looked))
            after.append(self.shop.attention_iou(self.taught(run, **PLAIN, **LOCAL), looked))
        return [
            row("local.iou_before", bootstrap_interval(before), "IoU"),
            row("local.iou_after", bootstrap_interval(after), "IoU", self.goal(0.7)),
        ]

    def multi(self) -> list[Row]:
        """Two subjects in one picture, not mixed: composites and L_local, and its gain over plain joint training."""
        sides: list[list[float]] = [[], []]
        groups: list[object] = []
        for pair in self.pairs:
            for seed in self.seeds:
                for side, right in enumerate(self.joint(pair, seed)):
                    sides[side] += right
                groups += [(pair, seed)] * (len(sides[0]) - len(groups))
        return [
            share("multi.both", sides[0], groups, self.goal(60)),
            gain("multi.gain", *sides, groups, self.goal(20)),
        ]

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        return PAIRS[: 1 if self.quick else None]

    def sets_of(self, pair: tuple[str, str]) -> list[TrainingSet]:
        """The references of each of two subjects, with identifiers of their own."""
        return [references(self.shop.sets, name, None, word) for name, word in zip(pair, ("sks", "zwx"), strict=True)]

    def joint(self, pair: tuple[str, str], seed: int) -> tuple[list[float], list[float]]:
        """Whether each sample shows both subjects as they are: with composites and L_local, and without."""
        sets = self.sets_of(pair)
        plain: TrainingSet = together(self.shop.sets, sets, seed, count=0)
        found = []
        for made, settings in ((together(self.shop.sets, sets, seed), LOCAL), (plain, {})):
            adapter = self.shop.train(self.shop.with_priors(made), seed=seed, **PLAIN, **settings)
            found.append(self.shows_both(adapter, pair, seed))
        return found[0], found[1]

    def shows_both(self, adapter: Adapter, pair: tuple[str, str], seed: int) -> list[float]:
        """Whether each sample shows both subjects as they are, in every relation and either order."""
        looks = [pictures.subject_named(name).thing.look for name in pair]
        words = [f"a {one.concepts[0].phrase}" for one in self.sets_of(pair)]
        relations = [layout[0][0] for layout in world.LAYOUTS.values()]
        prompts = [
            f"a photo of {words[turn]} {relation} {words[1 - turn]} {there}"
            for relation in relations
            for turn in (0, 1)
            for there in list(world.PLACES.values())[:3]
        ]
        read = self.shop.readings(adapter, prompts, seed)
        return [float(all(any(t.look == look for t in r.things) for look in looks)) for r in read]

    @staticmethod
    def share(name: str, values: Sequence[float], groups: Sequence[object]) -> Row:
        return share(name, values, groups)

    def description(self) -> list[Row]:
        """Rare subjects taught with their looks in words, against taught without."""
        sides: list[list[float]] = [[], []]
        groups: list[Run] = []
        for run in self.rare_runs:
            for side, described in enumerate((True, False)):
                one = references(self.shop.sets, run.subject, None, "sks", described)
                adapter = self.shop.train(self.shop.with_priors(one), seed=run.seed, **PLAIN)
                wanted = asks(run.noun, one.trigger)
                sides[side] += self.fidelities(run, adapter, wanted)[0]
            groups += [run] * len(wanted)
        return [gain("description.gain", *sides, groups)]

    def baselines(self) -> list[Row]:
        """The plain methods: both fidelities each."""
        made = [
            self.both_rows(f"baseline.{name}", self.table_runs, self.teacher(how)) for name, how in BASELINES.items()
        ]
        return [one for both in made for one in both]

    def teacher(self, how: dict) -> Callable[[Run], Adapter]:
        return lambda run: self.taught(run, **how)

    @property
    def parts(self) -> tuple[Callable[[], list[Row]], ...]:
        """The headline first, so that a bench that is stopped has it."""
        return (
            self.poster,
            self.priors,
            self.local,
            self.multi,
            self.description,
            self.tuning,
            self.baselines,
            partial(fused_rows, self),
            partial(optimiser_rows, self),
            partial(auto_gap, self),
            partial(presets, self),
        )


# -------------------------------------------------------------------------------------------------------- numbers


def row(name: str, found: Interval, unit: str, goal: float | None = None, scale: float = 1.0) -> Row:
    """A row of a mean, higher being better."""
    ends = None if found.low is None or found.high is None else (scale * found.low, scale * found.high)
    return Row(name, scale * found.mean, unit, "higher", goal, ends, found.n)


def share(name: str, values: Sequence[float], groups: Sequence[object], goal: float | None = None) -> Row:
    """A share in percent, its interval over runs."""
    return row(name, bootstrap_interval(values, groups), "%", goal, 100)


def gain(
    name: str, after: Sequence[float], before: Sequence[float], groups: Sequence[object], goal: float | None = None
) -> Row:
    """A difference in points, paired by prompt and seed, its interval over runs."""
    return row(name, paired_interval(after, before, groups), "points", goal, 100)


def ratio(name: str, above: Sequence[float], below: Sequence[float], goal: float | None = None) -> Row:
    """The mean of `above` over that of `below`, run by run paired in the bootstrap; lower is better."""
    rng, drawn = random.Random(0), []
    for _ in range(2000):
        picked = [rng.randrange(len(above)) for _ in above]
        drawn.append(_over(sum(above[i] for i in picked), sum(below[i] for i in picked)))
    drawn.sort()
    ends = (drawn[50], drawn[1949]) if len(above) > 1 else None
    return Row(name, _over(sum(above), sum(below)), "ratio", "lower", goal, ends, len(above))


def _over(above: float, below: float) -> float:
    """Where nothing drifts without priors either, there is nothing to hold: 1 says that priors changed nothing."""
    return above / below if below else 1.0 + above


def replace_trigger(ask: Ask, noun: str) -> Ask:
    """The same prompt of the class itself."""
    return replace(ask, prompt=ask.prompt.replace(f"sks {noun}", noun))


def rows(quick: bool) -> list[Row]:
    bench = Bench(Workshop(steps=60 if quick else STEPS), quick)
    found = []
    for part in bench.parts:
        found += part()
        log.info("%s", "; ".join(f"{one.name} {one.value:.3g}" for one in found[-3:]))
    return found
