"""Subject training on the pocket: its runs, and the rows of its parts."""

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
from ..harness.statistics import disagreement_note, gain, ratio, row, share
from ..harness.workshop import Workshop
from .sets import PromptCheck, prompt_checks
from .training_cases import (
    ATTENTION_LOSS,
    HEADLINE_PLACE,
    PLAIN,
    Fidelities,
    SubjectPair,
    SubjectRun,
    TrainingCase,
    at_equal_cost,
    attention_change,
    class_checks,
    judge_described,
    judge_fidelities,
    judge_joint,
    train_and_judge,
)

# The three parameter sets of the poster, and the others; the last one is the default's.
TUNED_SETS: Mapping[str, Mapping[str, Any]] = {
    "cross": {**PLAIN, "parameter_set": "cross"},
    "cross_self": {**PLAIN, "parameter_set": "attention"},
    "cross_self_text": {**PLAIN, "parameter_set": "attention", "text_encoder": True},
    "self": {**PLAIN, "parameter_set": "self"},
    "feed_forward": {**PLAIN, "parameter_set": "feed_forward"},
    "attention_ff": {**PLAIN, "parameter_set": "attention_ff"},
}

PAIRS: Sequence[SubjectPair] = (
    ("cat_striped", "car_patched"),
    ("bird_dotted", "house_dotted"),
    ("fish_striped", "bottle_two"),
)


@dataclass(frozen=True)
class SubjectBenchmark:
    """The measurement: all subjects and seeds for headlines, one subject and two seeds for tables."""

    shop: Workshop
    quick: bool

    @property
    def seeds(self) -> range:
        return range(1 if self.quick else 2)

    @property
    def all_runs(self) -> list[SubjectRun]:
        return self._runs(world.SUBJECTS)

    @property
    def rare_runs(self) -> list[SubjectRun]:
        """Subjects that words of the base describe completely, with the first seed."""
        return [run for run in self._runs([one for one in world.SUBJECTS if one.rare]) if run.seed == 0]

    @property
    def table_runs(self) -> list[SubjectRun]:
        return self._runs(world.SUBJECTS[:1])

    @property
    def first_seed_runs(self) -> list[SubjectRun]:
        """All subjects with the first seed."""
        return [run for run in self.all_runs if run.seed == 0]

    @property
    def pairs(self) -> Sequence[SubjectPair]:
        return PAIRS[: 1 if self.quick else None]

    def _runs(self, subjects: Sequence[world.Subject]) -> list[SubjectRun]:
        return [SubjectRun(one.name, seed) for one in subjects[: 1 if self.quick else None] for seed in self.seeds]

    def goal(self, value: float) -> float | None:
        """The goal of the full bench; a quick one has none."""
        return None if self.quick else value

    # ------------------------------------------------------------------------------------------------- fidelities

    def fidelities(
        self, run: SubjectRun, adapter: Adapter | None, checks: Sequence[PromptCheck]
    ) -> tuple[list[float], list[float]]:
        """For each prompt whether the subject is right, and whether everything else in the prompt is."""
        fidelities = judge_fidelities(self.shop, run, adapter, checks)
        return fidelities.subject, fidelities.prompt

    def judge_cases(self, cases: Sequence[TrainingCase]) -> list[Fidelities]:
        """The fidelities of each case, trained and judged on all processors."""
        return each(partial(train_and_judge, self.shop), cases)

    def judge_table(self, variants: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, list[Fidelities]]:
        """By variant (kind of set, settings) its fidelities in each of the tables' runs, at equal cost."""
        runs = self.table_runs
        cases = [
            TrainingCase(run, kind, prompt_checks(run.noun, f"sks {run.noun}"), at_equal_cost(self.shop, settings))
            for kind, settings in variants.values()
            for run in runs
        ]
        fidelities = iter(self.judge_cases(cases))
        return {name: [next(fidelities) for _ in runs] for name in variants}

    def fidelity_rows(
        self, prefix: str, variants: Mapping[str, tuple[str, Mapping[str, Any]]], note: str = ""
    ) -> list[BenchmarkRow]:
        """`prefix`.name.subject and `prefix`.name.prompt of every variant."""
        rows = []
        for name, fidelities in self.judge_table(variants).items():
            notes = "; ".join(filter(None, (note, disagreement_note(one.doubts for one in fidelities))))
            for kind in ("subject", "prompt"):
                values, groups = self.flatten(fidelities, kind)
                rows.append(share(f"{prefix}.{name}.{kind}", values, groups, note=notes))
        return rows

    def flatten(self, fidelities: Sequence[Fidelities], kind: str) -> tuple[list[float], list[int]]:
        """The values of all runs in one list, and the index of each value's run."""
        values = [getattr(one, kind) for one in fidelities]
        return sum(values, []), [number for number, one in enumerate(values) for _ in one]

    # ------------------------------------------------------------------------------------------------------- rows

    def new_places_case(self, run: SubjectRun, full: bool, **settings: Any) -> TrainingCase:
        """References in one place, prompts in new places: with paste and L_local, or plainly."""
        checks = prompt_checks(run.noun, f"sks {run.noun}", without=(HEADLINE_PLACE,))
        if full:
            return TrainingCase(run, "one place, pasted", checks, {**PLAIN, **ATTENTION_LOSS, **settings})
        return TrainingCase(run, "one place", checks, {**PLAIN, **settings})

    def poster(self) -> list[BenchmarkRow]:
        """References in one place, prompts in new places: paste and L_local against plain DreamBooth."""
        return self.against_plain("poster", self.all_runs, (15.0, -8.0))

    def poster_word(self) -> list[BenchmarkRow]:
        """The same with a learned word on both sides."""
        return self.against_plain("poster.word", self.first_seed_runs, (None, None), token="free")

    def against_plain(
        self, prefix: str, runs: Sequence[SubjectRun], goals: tuple[float | None, float | None], **settings: Any
    ) -> list[BenchmarkRow]:
        """Gains of paste and L_local over plain training, and both sides' fidelities; `settings` hold for both sides.

        `both` counts a sample in which the subject and everything else in the prompt are right.
        """
        cases = [self.new_places_case(run, full, **settings) for run in runs for full in (True, False)]
        fidelities = self.judge_cases(cases)
        sides, note = (fidelities[::2], fidelities[1::2]), disagreement_note(one.doubts for one in fidelities)
        rows = []
        columns = (
            ("prompt", "prompt_gain", goals[0]),
            ("subject", "subject_loss", goals[1]),
            ("both", "both_gain", None),
        )
        for kind, name, goal in columns:
            (after, groups), (before, _) = (self.flatten(side, kind) for side in sides)
            rows.append(gain(f"{prefix}.{name}", after, before, groups, goal and self.goal(goal), note))
        for kind in ("prompt", "subject", "both"):
            for side, results in zip(("full", "plain"), sides, strict=True):
                own_note = disagreement_note(one.doubts for one in results)
                rows.append(share(f"{prefix}.{side}.{kind}", *self.flatten(results, kind), note=own_note))
        return rows

    def priors(self) -> list[BenchmarkRow]:
        """How much of the class itself drifts into the subject, with priors over without."""
        cases = []
        for run in self.first_seed_runs:
            for weight in (1.0, 0.0):
                case = self.new_places_case(run, False, prior_weight=weight)
                checks = class_checks(prompt_checks(run.noun, f"sks {run.noun}"), run.noun)
                cases.append(replace(case, checks=checks))
        fidelities = self.judge_cases(cases)
        above, below = ([statistics.mean(one.subject) for one in fidelities[side::2]] for side in (0, 1))
        note = disagreement_note(one.doubts for one in fidelities)
        return [ratio("priors.drift_ratio", above, below, self.goal(0.33), note)]

    def local(self) -> list[BenchmarkRow]:
        """IoU of the subject's attention with its mask on held-out pictures, before and after L_local."""
        cases = [self.new_places_case(run, True) for run in self.first_seed_runs]
        before, after = zip(*each(partial(attention_change, self.shop), cases), strict=True)
        return [
            row("local.iou_before", bootstrap_interval(before), "IoU"),
            row("local.iou_after", bootstrap_interval(after), "IoU", self.goal(0.7)),
        ]

    def multi(self) -> list[BenchmarkRow]:
        """Two subjects in one picture, not mixed: composites and L_local, and its gain over plain joint training.

        Also what the untrained base shows of the same pairs when the prompt describes both looks.
        """
        jobs = [(pair, 0, composites) for pair in self.pairs for composites in (True, False)]
        results = each(partial(judge_joint, self.shop), jobs)
        (after, groups), (before, _) = (flatten_pairs(results[side::2]) for side in (0, 1))
        note = disagreement_note(doubts for _, doubts in results)
        in_words = each(partial(judge_described, self.shop), self.pairs)
        return [
            share("multi.both", after, groups, self.goal(60), disagreement_note(doubts for _, doubts in results[::2])),
            gain("multi.gain", after, before, groups, self.goal(20), note),
            share(
                "multi.described", *flatten_pairs(in_words), note=disagreement_note(doubts for _, doubts in in_words)
            ),
        ]

    def description(self) -> list[BenchmarkRow]:
        """Rare subjects trained with their looks in words, against trained without; each is prompted as it was trained.

        The second row is the gain of the words in the prompt alone, without training on them.
        """
        cases = []
        for run in self.rare_runs:
            described = f"sks {next(one for one in world.SUBJECTS if one.name == run.subject).description} {run.noun}"
            named, plain = (
                prompt_checks(run.noun, described, without=(HEADLINE_PLACE,)),
                self.new_places_case(run, False),
            )
            cases += [TrainingCase(run, "described", named, PLAIN), plain, replace(plain, checks=named)]
        fidelities = self.judge_cases(cases)
        (after, groups), (before, _), (prompted, _) = (
            self.flatten(fidelities[side::3], "subject") for side in (0, 1, 2)
        )
        note = disagreement_note(one.doubts for one in fidelities)
        return [
            gain("description.gain", after, before, groups, note=note),
            gain("description.in_the_prompt_only", prompted, before, groups, note=note),
        ]

    def tuning(self) -> list[BenchmarkRow]:
        """Subject fidelity by parameter set, and its gain from the smallest to the largest set."""
        fidelities = self.judge_table({name: ("anywhere", settings) for name, settings in TUNED_SETS.items()})
        rows = [
            share(f"tuning.{name}", *self.flatten(some, "subject"), note=disagreement_note(one.doubts for one in some))
            for name, some in fidelities.items()
        ]
        (most, groups), (least, _) = (
            self.flatten(fidelities[name], "subject") for name in ("cross_self_text", "cross")
        )
        return [*rows, gain("tuning.rise", most, least, groups)]


def flatten_pairs(results: Sequence[tuple[list[float], list[float]]]) -> tuple[list[float], list[int]]:
    """The values of all pairs in one list, and the index of each value's pair."""
    return sum((right for right, _ in results), []), [n for n, (right, _) in enumerate(results) for _ in right]
