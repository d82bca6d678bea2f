"""Refinement on the pocket: a subject that was trained for too long is made to follow prompts again.

The start is the default recipe of subjects at twice the usual steps. The reward is the pocket's CLIP, the judges are
the scene readers; prompts that are judged were never learned from. Everything drawn is kept on disk, so that a bench
that was stopped goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import mean
from typing import Any

from ..evaluation.metrics import bootstrap_interval
from ..evaluation.rewards import Reward, RewardTerm
from ..models.fusion import summed
from ..models.values import Adapter, Prompt, PromptSet
from ..pocket import world
from ..pocket.assemble import WEIGHTS
from ..trainers.refinement import RefinementResult, refine_adapter
from ..trainers.refinement_settings import DDPO, DRAFT, METHODS, ONLY, RefinementSettings
from ..trainers.settings import SubjectSettings
from ..trainers.subject import train_subject
from ..trainers.validation import Validator
from . import Row
from ._refine_costs import per_round, samples, within
from ._subject_runs import Workshop
from ._subject_sets import Ask, asks, references
from .subject import Bench as Subjects
from .subject import Run, gain, row

log = logging.getLogger(__name__)

STEPS, QUICK_STEPS = 400, 30
KNOWN, GUARDED = 48, 6  # prompts to learn from, and to watch with
STRENGTHS = (1.0, 0.8, 0.6, 0.4)
BUDGET, METHOD_BUDGET, QUICK_BUDGET = 60_000, 24_000, 150  # evaluations of the denoiser
BASELINE_RATES = (1e-4, 3e-4, 1e-3)
DEFAULT = dict(
    prompts_per_round=6, group=6, updates=1, trained_steps=4, sampling_steps=12, guidance=3.0, guard_prompts=GUARDED
)
TINY = dict(
    prompts_per_round=2, group=2, updates=1, trained_steps=1, sampling_steps=4, guidance=1.0, guard_prompts=1,
    skip_last=1, save_every=1000,
)  # fmt: skip
DDPO_THEIRS = dict(
    method=DDPO, rank=4, prompts_per_round=6, group=6, updates=2, sampling_steps=50, trained_steps=50, skip_last=0,
    guidance=5.0, weight_decay=1e-4, statistics_from=16, statistics=32,
)  # fmt: skip
"""the settings of kvablack/ddpo-pytorch, with a round of the size that ours has"""
NEVER = 2.0
"""the ratio that stands for "never within twice the samples" """


@dataclass(frozen=True)
class Bench:
    """What is measured: all subjects and seeds for the headline, one subject and two seeds for tables."""

    shop: Workshop
    quick: bool

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.shop, self.quick)

    def goal(self, value: float) -> float | None:
        return None if self.quick else value

    # --------------------------------------------------------------------------------------------- start, refinement

    def start(self, run: Run) -> Adapter:
        """Trained for twice the usual steps."""
        return self.subjects.taught(run, steps=2 * self.shop.steps)

    def auto(self, run: Run) -> Adapter:
        """The checkpoint that validation chooses of the same training."""
        pictures = self.shop.with_priors(references(self.shop.sets, run.subject))
        settings = SubjectSettings(steps=2 * self.shop.steps, seed=run.seed)
        return train_subject(
            self.shop.base, pictures, settings, self.shop.folder / "chosen", self.shop.device, name="bench",
            validator=Validator(WEIGHTS / "clip"),
        ).adapter  # fmt: skip

    def settings(self, budget: int, **changes) -> RefinementSettings:
        known = read_by(changes.get("method", METHODS[0]), (TINY if self.quick else DEFAULT) | changes)
        found = RefinementSettings.from_mapping(known)
        chosen = within(found, QUICK_BUDGET if self.quick else budget)
        rounds = chosen.steps // chosen.updates
        return replace(chosen, guard_every=max(1, rounds // 8), log_every=1000)

    def refined(self, run: Run, settings: RefinementSettings, share: float = 0.5) -> RefinementResult:
        """The start refined; `share` of the prompts name the subject."""
        pictures = references(self.shop.sets, run.subject)
        looks = tuple(sample.image for sample in pictures.references)
        clip = WEIGHTS / "clip"
        reward = Reward((RewardTerm("CLIP-T", clip), RewardTerm("CLIP-I", clip, 0.5)), looks)
        if settings.method == DRAFT:
            reward = Reward(reward.terms[:1])
        found = refine_adapter(
            self.shop.base, self.start(run), prompts(run.noun, share), reward, replace(settings, seed=run.seed),
            self.shop.folder / "refined", self.shop.device, name="bench", pictures=pictures,
            validator=Validator(clip),
        )  # fmt: skip
        log.info("%s %s: %s", run.subject, settings.method, found.readings["best"])
        return found

    def fidelities(self, run: Run, adapter: Adapter) -> tuple[list[float], list[float]]:
        return self.subjects.fidelities(run, adapter, unseen(run.noun))

    def point(self, run: Run, adapter: Adapter) -> tuple[float, float]:
        subject, prompt = self.fidelities(run, adapter)
        return mean(subject), mean(prompt)

    # ---------------------------------------------------------------------------------------------------------- rows

    def headline(self) -> list[Row]:
        """Over the start, the automatic checkpoint, and the start at lowered strength."""
        after: list[float] = []
        before: list[float] = []
        groups: list[Run] = []
        shares, over_auto, over_strength = [], [], []
        for run in self.subjects.all_runs:
            start, found = self.start(run), self.refined(run, self.settings(BUDGET))
            both = found.combined or found.adapter
            subject, prompt = self.fidelities(run, both)
            subject_before, prompt_before = self.fidelities(run, start)
            after, before, groups = after + prompt, before + prompt_before, groups + [run] * len(prompt)
            shares.append(mean(subject) / max(mean(subject_before), 1e-6))
            lowered = [self.point(run, weaker(start, strength)) for strength in STRENGTHS]
            over_strength.append(mean(prompt) - at(lowered, mean(subject)))
            turned_up = [self.point(run, summed([(start, 1.0), (found.adapter, s)])) for s in (0.5, 1.0, 1.5)]
            chosen = self.point(run, self.auto(run))
            over_auto.append(at([*turned_up, (mean(subject_before), mean(prompt_before))], chosen[0]) - chosen[1])
        return [
            gain("refined.prompt_gain", after, before, groups, self.goal(15)),
            row("refined.subject_share", bootstrap_interval(shares), "ratio", self.goal(0.93)),
            row("refined.over_auto", bootstrap_interval(over_auto), "points", self.goal(0), 100),
            row("refined.over_strength", bootstrap_interval(over_strength), "points", self.goal(0), 100),
        ]

    def id_mix(self) -> list[Row]:
        """Samples that mixed prompts need to reach what prompts with the identifier alone end with."""
        found = []
        for run in self.subjects.table_runs:
            settings = self.settings(BUDGET)
            alone, mixed = (gains(self.refined(run, settings, share)) for share in (1.0, 0.5))
            found.append(steps_to(mixed, alone[max(alone)]) / max(alone))
        return [lower("idmix.samples_ratio", found, self.goal(0.75))]

    def methods(self) -> list[Row]:
        """The reward's gain and the judged gain of each method, at one cost."""
        rows = []
        for method in METHODS:
            earned, judged = [], []
            for run in self.subjects.table_runs:
                settings = self.settings(METHOD_BUDGET, method=method)
                result = self.refined(run, settings)
                thousands = settings.steps // settings.updates * per_round(settings) / 1000
                earned.append(max(gains(result).values()) / thousands)
                before, after = (self.fidelities(run, one)[1] for one in (self.start(run), result.combined))
                judged.append(100 * (mean(after) - mean(before)) / thousands)
            rows.append(row(f"method.{method}.reward", bootstrap_interval(earned), "deviations / 1000"))
            rows.append(row(f"method.{method}.judge", bootstrap_interval(judged), "points / 1000 evaluations"))
        return rows

    def baseline(self) -> list[Row]:
        """Against DDPO with its own settings, at the best of three learning rates."""
        costs, speeds = [], []
        for run in self.subjects.table_runs:
            theirs = [self.baseline_run(run, rate) for rate in (BASELINE_RATES[:1] if self.quick else BASELINE_RATES)]
            best, settings = max(theirs, key=lambda one: max(gains(one[0]).values()))
            ours_settings = self.settings(BUDGET)
            ours = self.refined(run, ours_settings)
            wanted = max(gains(best).values())
            steps = steps_to(gains(ours), wanted)
            spent = steps / ours_settings.updates * per_round(ours_settings)
            costs.append(spent / (settings.steps / settings.updates * per_round(settings)))
            speeds.append(speed(ours, ours_settings) / speed(best, settings))
        return [
            lower("ddpo_baseline.evaluations_ratio", costs, self.goal(0.5)),
            row("ddpo_baseline.speed_ratio", bootstrap_interval(speeds), "ratio", self.goal(1.5)),
        ]

    def baseline_run(self, run: Run, rate: float) -> tuple[RefinementResult, RefinementSettings]:
        changes = dict(TINY, method=DDPO) if self.quick else DDPO_THEIRS
        settings = self.settings(BUDGET, **(changes | {"learning_rate": rate}))
        return self.refined(run, settings, share=1.0), settings


# ------------------------------------------------------------------------------------------------------------ parts


def read_by(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the method reads; others keep their defaults."""
    return {name: value for name, value in values.items() if method in ONLY.get(name, (method,))}


@cache
def unseen(noun: str) -> tuple[Ask, ...]:
    """What is judged: the bench of subjects' own prompts."""
    return asks(noun, f"sks {noun}")


def prompts(noun: str, share: float) -> PromptSet:
    """Prompts in the world's words, none of which is judged; the guards' are others again."""
    judged = {ask.prompt for ask in unseen(noun)}
    others = [other for other in world.CLASSES if other != noun]
    doing = [*world.ACCESSORIES.values()]
    doing += [f"{side[0]} a {other}" for sides in world.LAYOUTS.values() for side in sides for other in others]
    known = [f"a photo of a sks {noun} {what} {there}" for what in doing for there in world.PLACES.values()]
    order = world.lots(92, world.CLASSES.index(noun)).permutation(len(known))
    lines = [known[i] for i in order if known[i] not in judged][: KNOWN + GUARDED]
    watched, learned = lines[:GUARDED], lines[GUARDED:]
    named = [_prompt(line, noun, True, i) for i, line in enumerate(learned) if share == 1.0 or i % 2 == 0]
    plain = [_prompt(line, noun, False, i) for i, line in enumerate(learned) if share < 1.0 and i % 2 == 0]
    return PromptSet((*named, *plain, *(replace(_prompt(w, noun, True, 0), split="held-out") for w in watched)))


def _prompt(line: str, noun: str, named: bool, number: int) -> Prompt:
    plain = line.replace(f"sks {noun}", noun)
    return Prompt(line if named else plain, plain, "train")


def weaker(adapter: Adapter, strength: float) -> Adapter:
    """The adapter at another strength."""
    still = replace(adapter, factors={})
    return summed([(adapter, strength), (still, 1.0)])


def at(points: Sequence[tuple[float, float]], subject: float) -> float:
    """Prompt fidelity of a curve of (subject, prompt) where its subject fidelity is `subject`, between its points."""
    known = sorted(points)
    for (x0, y0), (x1, y1) in zip(known, known[1:], strict=False):
        if x0 <= subject <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (subject - x0) / (x1 - x0)
    return known[0][1] if subject < known[0][0] else known[-1][1]


def gains(result: RefinementResult) -> dict[int, float]:
    """The held-out reward's gain by step."""
    readings = result.readings["readings"]
    assert isinstance(readings, list)
    return {reading["step"]: reading["gain"] for reading in readings}


def steps_to(curve: dict[int, float], wanted: float) -> float:
    """The first step at which the gain is reached, between readings; `NEVER` times the last where it is not."""
    steps = sorted(curve)
    if curve[steps[0]] >= wanted:
        return steps[0]
    for before, after in zip(steps, steps[1:], strict=False):
        if curve[after] >= wanted:
            return before + (after - before) * (wanted - curve[before]) / (curve[after] - curve[before])
    return NEVER * steps[-1]


def speed(result: RefinementResult, settings: RefinementSettings) -> float:
    """Samples a second, from the first round to the end of the last."""
    rounds = -(-len(result.training.losses) // settings.updates)
    return rounds * samples(settings) / result.training.seconds


def lower(name: str, values: Sequence[float], goal: float | None) -> Row:
    return replace(row(name, bootstrap_interval(values), "ratio", goal), better="lower")


def rows(quick: bool) -> list[Row]:
    bench = Bench(Workshop(steps=QUICK_STEPS if quick else STEPS), quick)
    found: list[Row] = []
    for part in (bench.headline, bench.id_mix, bench.methods, bench.baseline):
        found += part()
        log.info("%s", "; ".join(f"{one.name} {one.value:.3g}" for one in found[-4:]))
    return found
