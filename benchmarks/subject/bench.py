"""Subject training on the pocket: what is trained, and the rows of its parts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...core.statistics import bootstrap_interval
from ...core.values import Adapter
from ...pocket.world import world
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import doubted, gain, ratio, row, share
from ..harness.workshop import Workshop
from .lessons import (
    LOCAL,
    PLACE,
    PLAIN,
    Lesson,
    Pair,
    Run,
    Shown,
    at_one_cost,
    joint,
    learn,
    looked_at,
    of_class,
    shown,
    taught,
    told,
)
from .sets import Ask, asks

TUNED: Mapping[str, dict[str, Any]] = {
    "cross": {"parameter_set": "cross"},
    "cross_self": {"parameter_set": "attention"},
    "cross_self_text": {"parameter_set": "attention", "text_encoder": True},
    "self": {"parameter_set": "self"},
    "feed_forward": {"parameter_set": "feed_forward"},
    "attention_ff": {"parameter_set": "attention_ff"},
}
"""the poster's three, and the other sets; the last one is the default"""

PAIRS: Sequence[Pair] = (
    ("cat_striped", "car_patched"),
    ("bird_dotted", "house_dotted"),
    ("fish_striped", "bottle_two"),
)


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
        """Subjects that the base's words describe wholly, with the first seed."""
        return [run for run in self._runs([one for one in world.SUBJECTS if one.rare]) if run.seed == 0]

    @property
    def table_runs(self) -> list[Run]:
        return self._runs(world.SUBJECTS[:1])

    @property
    def one_each(self) -> list[Run]:
        """All subjects with the first seed."""
        return [run for run in self.all_runs if run.seed == 0]

    @property
    def pairs(self) -> Sequence[Pair]:
        return PAIRS[: 1 if self.quick else None]

    def _runs(self, subjects: Sequence[world.Subject]) -> list[Run]:
        return [Run(one.name, seed) for one in subjects[: 1 if self.quick else None] for seed in self.seeds]

    def goal(self, value: float) -> float | None:
        """A goal is set only by the whole bench."""
        return None if self.quick else value

    # ------------------------------------------------------------------------------------------------- fidelities

    def fidelities(self, run: Run, adapter: Adapter | None, wanted: Sequence[Ask]) -> tuple[list[float], list[float]]:
        """For each prompt whether the subject is right, and whether all that was asked for is."""
        found = shown(self.shop, run, adapter, wanted)
        return found.subject, found.prompt

    def taught(self, run: Run, **settings) -> Adapter:
        """DreamBooth with priors on the subject's references in several places."""
        return taught(self.shop, Lesson(run, "anywhere", (), settings))

    def learned(self, lessons: Sequence[Lesson]) -> list[Shown]:
        """What each lesson shows, on all processors."""
        return each(partial(learn, self.shop), lessons)

    def table(self, ways: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, list[Shown]]:
        """By name of a way (kind of set, settings) what it shows in each of the tables' runs, at one cost."""
        runs = self.table_runs
        lessons = [
            Lesson(run, kind, asks(run.noun, f"sks {run.noun}"), at_one_cost(self.shop, how))
            for kind, how in ways.values()
            for run in runs
        ]
        found = iter(self.learned(lessons))
        return {name: [next(found) for _ in runs] for name in ways}

    def both_rows(
        self, prefix: str, ways: Mapping[str, tuple[str, Mapping[str, Any]]], note: str = ""
    ) -> list[BenchmarkRow]:
        """`prefix`.name.subject and `prefix`.name.prompt of every way."""
        rows = []
        for name, found in self.table(ways).items():
            said = "; ".join(filter(None, (note, doubted(one.doubts for one in found))))
            for kind in ("subject", "prompt"):
                values, groups = self.flat(found, kind)
                rows.append(share(f"{prefix}.{name}.{kind}", values, groups, note=said))
        return rows

    def flat(self, found: Sequence[Shown], kind: str) -> tuple[list[float], list[int]]:
        """The values of all runs in a row, and which run each belongs to."""
        values = [getattr(one, kind) for one in found]
        return sum(values, []), [number for number, one in enumerate(values) for _ in one]

    # ------------------------------------------------------------------------------------------------------- rows

    def elsewhere(self, run: Run, full: bool, **settings: Any) -> Lesson:
        """References in one place, prompts in new places: with paste and L_local, or plainly."""
        wanted = asks(run.noun, f"sks {run.noun}", without=(PLACE,))
        if full:
            return Lesson(run, "one place, pasted", wanted, {**PLAIN, **LOCAL, **settings})
        return Lesson(run, "one place", wanted, {**PLAIN, **settings})

    def poster(self) -> list[BenchmarkRow]:
        """References in one place, prompts in new places: paste and L_local against plain DreamBooth."""
        return self.against_plain("poster", self.all_runs, (15.0, -8.0))

    def poster_word(self) -> list[BenchmarkRow]:
        """The same with a learned word on both sides."""
        return self.against_plain("poster.word", self.one_each, (None, None), token="free")

    def against_plain(
        self, prefix: str, runs: Sequence[Run], goals: tuple[float | None, float | None], **settings: Any
    ) -> list[BenchmarkRow]:
        """Gains of paste and L_local over plain training, and both sides' fidelities; `settings` hold for both sides.

        `both` counts a sample where the subject and all that was asked for are right at once.
        """
        found = self.learned([self.elsewhere(run, full, **settings) for run in runs for full in (True, False)])
        sides, note = (found[::2], found[1::2]), doubted(one.doubts for one in found)
        rows = []
        wanted = (
            ("prompt", "prompt_gain", goals[0]),
            ("subject", "subject_loss", goals[1]),
            ("both", "both_gain", None),
        )
        for kind, name, goal in wanted:
            (after, groups), (before, _) = (self.flat(side, kind) for side in sides)
            rows.append(gain(f"{prefix}.{name}", after, before, groups, goal and self.goal(goal), note))
        for kind in ("prompt", "subject", "both"):
            for side, found in zip(("full", "plain"), sides, strict=True):
                own = doubted(one.doubts for one in found)
                rows.append(share(f"{prefix}.{side}.{kind}", *self.flat(found, kind), note=own))
        return rows

    def priors(self) -> list[BenchmarkRow]:
        """How much of the class itself turns into the subject, with priors over without."""
        lessons = []
        for run in self.one_each:
            for weight in (1.0, 0.0):
                one = self.elsewhere(run, False, prior_weight=weight)
                lessons.append(replace(one, asks=of_class(asks(run.noun, f"sks {run.noun}"), run.noun)))
        found = self.learned(lessons)
        above, below = ([statistics.mean(one.subject) for one in found[side::2]] for side in (0, 1))
        return [ratio("priors.drift_ratio", above, below, self.goal(0.33), doubted(one.doubts for one in found))]

    def local(self) -> list[BenchmarkRow]:
        """How well the subject's attention meets its mask on held-out pictures, before and after L_local."""
        found = each(partial(looked_at, self.shop), [self.elsewhere(run, True) for run in self.one_each])
        before, after = zip(*found, strict=True)
        return [
            row("local.iou_before", bootstrap_interval(before), "IoU"),
            row("local.iou_after", bootstrap_interval(after), "IoU", self.goal(0.7)),
        ]

    def multi(self) -> list[BenchmarkRow]:
        """Two subjects in one picture, not mixed: composites and L_local, and its gain over plain joint training.

        Beside them what the untrained base shows of the same pairs when it is told both looks in words.
        """
        asked = [(pair, 0, composites) for pair in self.pairs for composites in (True, False)]
        found = each(partial(joint, self.shop), asked)
        (after, groups), (before, _) = (flat_pairs(found[side::2]) for side in (0, 1))
        note = doubted(doubts for _, doubts in found)
        in_words = each(partial(told, self.shop), self.pairs)
        return [
            share("multi.both", after, groups, self.goal(60), doubted(doubts for _, doubts in found[::2])),
            gain("multi.gain", after, before, groups, self.goal(20), note),
            share("multi.described", *flat_pairs(in_words), note=doubted(doubts for _, doubts in in_words)),
        ]

    def description(self) -> list[BenchmarkRow]:
        """Rare subjects taught with their looks in words, against taught without; each is asked for as it was taught.

        The second row tells how much of that the words do in the prompt alone, without having been taught.
        """
        lessons = []
        for run in self.rare_runs:
            looks = f"sks {next(one for one in world.SUBJECTS if one.name == run.subject).description} {run.noun}"
            named, plain = asks(run.noun, looks, without=(PLACE,)), self.elsewhere(run, False)
            lessons += [Lesson(run, "described", named, PLAIN), plain, replace(plain, asks=named)]
        found = self.learned(lessons)
        (after, groups), (before, _), (asked, _) = (self.flat(found[side::3], "subject") for side in (0, 1, 2))
        note = doubted(one.doubts for one in found)
        return [
            gain("description.gain", after, before, groups, note=note),
            gain("description.in_the_prompt_only", asked, before, groups, note=note),
        ]

    def tuning(self) -> list[BenchmarkRow]:
        """Subject fidelity by what is tuned, and whether it rises from the least to the most."""
        found = self.table({name: ("anywhere", how) for name, how in TUNED.items()})
        rows = [
            share(f"tuning.{name}", *self.flat(some, "subject"), note=doubted(one.doubts for one in some))
            for name, some in found.items()
        ]
        (most, groups), (least, _) = (self.flat(found[name], "subject") for name in ("cross_self_text", "cross"))
        return [*rows, gain("tuning.rise", most, least, groups)]


def flat_pairs(found: Sequence[tuple[list[float], list[float]]]) -> tuple[list[float], list[int]]:
    """The values of all pairs in a row, and which pair each belongs to."""
    return sum((right for right, _ in found), []), [n for n, (right, _) in enumerate(found) for _ in right]
