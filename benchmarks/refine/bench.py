"""Refinement on the pocket: its starts and refinements, and the rows of the headline."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from ...core.values import Adapter, TrainingSet, content_key
from ...evaluation.reward import Reward, RewardTerm
from ...models.adapters.formats import read_lora
from ...models.adapters.merge import sum_adapters
from ...models.open import open_base
from ...pocket.models.weights import WEIGHTS
from ...pocket.world import world
from ...trainers.auto.inputs import gather_auto_inputs
from ...trainers.auto.rules import resolve
from ...trainers.context import TrainingContext
from ...trainers.method import TrainingResult
from ...trainers.refine.method import RefinementGoal, RefinementResult, refine_adapter
from ...trainers.refine.methods.table import DEFAULT_METHOD, DRAFT, NFT, readers
from ...trainers.refine.settings import RefinementSettings
from ...trainers.state.run_folder import RunFolder
from ...trainers.subject.method import train_subject
from ...trainers.subject.settings import SubjectSettings
from ...trainers.validation.image_metrics import Validator
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.statistics import gain
from ..harness.workshop import Workshop
from ..subject.bench import SubjectBenchmark
from ..subject.sets import references
from ..subject.training_cases import SubjectRun
from .costs import per_round, within
from .curves import Point, best_at, gains, scale_steps, steps_to_reach, worst_at
from .prompts import prompts, unseen_checks
from .rows import NEVER, largest_disagreement_note, lower_is_better, mean_row
from .size import FULL, RefinementSize

log = logging.getLogger(__name__)

CLIP = WEIGHTS / "clip"

STRENGTHS = (0.75, 0.5, 0.25)  # of the start alone, besides 1 and 0

# Two curves of (strength of the start, strength of the refinement), along which subject fidelity falls or rises.
REFINEMENT_LOWERED = ((1.0, 1.5), (1.0, 1.0), (1.0, 0.5), (1.0, 0.0))
BOTH_LOWERED = ((1.0, 1.0), (0.7, 0.7), (0.4, 0.4))

# Floors are lower than a user's: CLIP-I drops as soon as the subject wears a hat, and the overfitted start, which
# repeats the same picture, is no more diverse than the subject's references.
DEFAULT = dict(
    prompts_per_round=6, group=8, updates=2, trained_steps=4, sampling_steps=12, guidance=3.0,
    subject_floor=0.7, diversity_floor=0.4,
)  # fmt: skip

# Settings of one method alone; draft trains on samples of its current weights.
METHOD_DEFAULTS = {NFT: dict(updates=3, trained_steps=2), DRAFT: dict(updates=1)}


@dataclass(frozen=True)
class RefinementBenchmark:
    """The measurement: several subjects for the headline, one subject and two seeds for tables."""

    shop: Workshop
    size: RefinementSize = FULL

    @property
    def subjects(self) -> SubjectBenchmark:
        return SubjectBenchmark(self.shop, not self.size.goals)

    @property
    def headline_runs(self) -> list[SubjectRun]:
        return [SubjectRun(subject.name, 0) for subject in world.SUBJECTS[::2][: self.size.subjects]]

    def goal(self, value: float) -> float | None:
        return value if self.size.goals else None

    def context(self, folder: str) -> TrainingContext:
        """Of trainings kept in `folder`, validated by the pocket's CLIP."""
        return TrainingContext(self.shop.folder / folder, self.shop.device, name="bench", validator=Validator(CLIP))

    # --------------------------------------------------------------------------------------------- start, refinement

    def train_start(self, run: SubjectRun) -> TrainingResult:
        """The default recipe at twice the chosen steps, validated without early stopping."""
        pictures = self.shop.with_priors(references(self.shop.sets, run.subject))
        steps = self.size.steps or 2 * self.chosen_steps(pictures)
        settings = SubjectSettings(steps=steps, seed=run.seed, keep_validated=True, patience=0)
        with self.shop.locked(f"start_{run.subject}_{run.seed}_{steps}"):
            return train_subject(self.shop.base, pictures, settings, self.context("starts"))

    def prepare(self, run: SubjectRun) -> None:
        """Train the start in a process of its own, which gives nothing back."""
        self.train_start(run)

    def chosen_steps(self, pictures: TrainingSet) -> int:
        settings = SubjectSettings()
        with open_base(self.shop.base, self.shop.device) as model:
            return resolve(settings, gather_auto_inputs(model, pictures, settings))[0].steps

    def start(self, run: SubjectRun) -> Adapter:
        """The adapter after the last step."""
        result = self.train_start(run)
        return read_lora(RunFolder(result.folder, "").validated(len(result.losses)))

    def auto(self, run: SubjectRun) -> Adapter:
        """The checkpoint of the same training that validation chose."""
        return self.train_start(run).adapter

    def settings(self, budget: int, readings: int = 8, **changes) -> RefinementSettings:
        """As many rounds as the budget allows, with `readings` evenly between them."""
        method = changes.get("method", DEFAULT_METHOD)
        defaults = {**DEFAULT, **METHOD_DEFAULTS.get(method, {}), **(self.size.settings or {})}
        wanted = {"method": method, **defaults, **changes}
        known = {name: value for name, value in wanted.items() if method in readers(name)}
        chosen = within(RefinementSettings.from_mapping(known), budget)
        return replace(chosen, guard_every=max(1, chosen.steps // chosen.updates // readings), log_every=1000)

    def reward(self, run: SubjectRun, likeness: bool = True) -> Reward:
        reference_pictures = tuple(sample.image for sample in references(self.shop.sets, run.subject).references)
        terms = (RewardTerm("CLIP-T contrast", CLIP), RewardTerm("CLIP-I", CLIP, 0.6))
        return Reward(terms if likeness else terms[:1], reference_pictures)

    def refined(
        self, run: SubjectRun, settings: RefinementSettings, activities: int, mixed: bool = False, likeness: bool = True
    ) -> RefinementResult:
        """The start refined with prompts that name the subject; with `mixed`, half of them name the class alone."""
        start, settings = self.start(run), replace(settings, seed=run.seed)
        prompt_set, reward = prompts(run.noun, activities, self.size.judged, mixed), self.reward(run, likeness)
        with self.shop.locked(f"refine_{content_key(start.key, prompt_set.key, reward.key, settings.key())[:24]}"):
            goal, pictures = RefinementGoal(prompt_set, reward), references(self.shop.sets, run.subject)
            result = refine_adapter(self.shop.base, start, goal, settings, self.context("refined"), pictures)
        log.info("%s %s: best after step %s", run.subject, settings.method, result.readings["best"])
        return result

    def fidelities(self, run: SubjectRun, adapter: Adapter | None) -> tuple[list[float], list[float]]:
        return self.subjects.fidelities(run, adapter, unseen_checks(run.noun, self.size.judged))

    def doubt(self, run: SubjectRun, adapter: Adapter | None) -> float:
        """The share of judged samples on which the two judges disagree."""
        prompt_texts = [check.prompt for check in unseen_checks(run.noun, self.size.judged)]
        return mean(self.shop.judge_samples(adapter, prompt_texts, run.seed)[1])

    def point(self, run: SubjectRun, adapter: Adapter | None) -> Point:
        subject, prompt = self.fidelities(run, adapter)
        return mean(subject), mean(prompt)

    # ------------------------------------------------------------------------------------------------------ headline

    def headline(self) -> list[BenchmarkRow]:
        """Over the start, the automatic checkpoint, and the start at lowered strength."""
        runs = self.headline_runs
        results = each(self.against_start, runs)
        after, before = ([value for one in results for value in one[side]] for side in ("after", "before"))
        groups = [run for run, one in zip(runs, results, strict=True) for _ in one["after"]]
        common_note = largest_disagreement_note(
            results, f"{len(runs)} of {len(world.SUBJECTS)} subjects, one seed each"
        )
        rows = [replace(gain("refined.prompt_gain", after, before, groups, self.goal(15)), note=common_note)]
        for name, goal, unit, reason in (
            ("subject_share", 0.93, "ratio", "whose start never shows the subject"),
            ("over_auto", 0, "points", "whose checkpoint has a subject fidelity that no strength reaches"),
            ("over_strength", 0, "points", "whose subject fidelity no strength of the start reaches"),
        ):
            values = [one[name] for one in results if one[name] is not None]
            left_out = len(results) - len(values)
            note = f"{common_note}; {left_out} left out {reason}" if left_out else common_note
            scale = 100 if unit == "points" else 1
            rows.append(mean_row(f"refined.{name}", values, unit, self.goal(goal), note, scale))
        return rows

    def against_start(self, run: SubjectRun) -> dict[str, Any]:
        """The headline's values of one run; None for what cannot be compared."""
        start, auto = self.start(run), self.auto(run)
        result = self.refined(run, self.settings(self.size.budgets.headline), self.size.activities)
        assert result.combined is not None
        subject, prompt = self.fidelities(run, result.combined)
        subject_before, prompt_before = self.fidelities(run, start)
        base = self.point(run, None)
        weaker = [self.point(run, mixture(start, result, strength, 0.0)) for strength in STRENGTHS]
        baseline = best_at([base, *weaker, self.point(run, start)], mean(subject))
        curves = [
            [self.point(run, mixture(start, result, *strengths)) for strengths in curve]
            for curve in (REFINEMENT_LOWERED, BOTH_LOWERED)
        ]
        curves[1].append(base)
        aim = self.point(run, auto)
        reached = [value for curve in curves if (value := worst_at(curve, aim[0])) is not None]
        return {
            "after": prompt,
            "before": prompt_before,
            "doubt": max(self.doubt(run, one) for one in (start, auto, result.combined)),
            "subject_share": mean(subject) / mean(subject_before) if any(subject_before) else None,
            "over_auto": max(reached) - aim[1] if reached else None,
            "over_strength": mean(prompt) - baseline if baseline is not None else None,
        }

    # --------------------------------------------------------------------------------------------- mix of identifiers

    def id_mix(self) -> list[BenchmarkRow]:
        """Samples that mixed prompts need to reach the final gain of prompts with the identifier alone."""
        runs = self.subjects.table_runs
        first, *others = runs  # the headline has trained the first one's start: the others' begin at once, in parallel
        cases = [*((run, False) for run in (*others, first)), *((run, True) for run in runs)]
        curves = dict(zip(cases, each(self.mixed_curve, cases), strict=True))
        ratios, notes = [], []
        for run in runs:
            alone, mixed = (curves[run, both] for both in (False, True))
            wanted = alone[max(alone)]
            reached = steps_to_reach(mixed, wanted)
            if wanted <= 0:
                notes.append(f"seed {run.seed}: the identifier alone gained nothing")
            elif reached is None:
                notes.append(f"seed {run.seed}: mixed prompts did not get there")
            ratios.append(NEVER if reached is None else reached / max(alone))
        return [lower_is_better(mean_row("idmix.samples_ratio", ratios, "ratio", self.goal(0.75), "; ".join(notes)))]

    def mixed_curve(self, case: tuple[SubjectRun, bool]) -> dict[float, float]:
        run, mixed = case
        settings = self.settings(self.size.budgets.id_mix, patience=0)
        return gains(self.refined(run, settings, self.size.activities, mixed))

    # ---------------------------------------------------------------------------------------------------- DDPO's

    def reward_curve(self, run: SubjectRun) -> dict[float, float]:
        """The default method's gain on the text reward alone by evaluations, to compare with the published DDPO."""
        settings = self.settings(self.size.budgets.reward, patience=0)
        result = self.refined(run, settings, self.size.activities, likeness=False)
        return scale_steps(gains(result), per_round(settings) / settings.updates)


def mixture(start: Adapter, result: RefinementResult, strength: float, more: float) -> Adapter:
    """The sum of start and refinement at their strengths."""
    if (strength, more) == (1.0, 0.0):
        return start
    if (strength, more) == (1.0, 1.0) and result.combined is not None:
        return result.combined
    return sum_adapters([(start, strength), (replace(result.adapter, trigger="refinement"), more)])
