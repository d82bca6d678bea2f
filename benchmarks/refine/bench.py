"""Refinement on the pocket: what is trained, how much of it, and the rows of the headline."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from ...core.settings import SubjectSettings
from ...core.values import Adapter, TrainingSet, content_key
from ...evaluation.reward import Reward, RewardTerm
from ...models.adapters.formats import read_lora
from ...models.adapters.merge import sum_adapters
from ...models.open import open_base
from ...pocket.assemble import WEIGHTS
from ...pocket.world import world
from ...trainers.auto.inputs import gather_auto_inputs
from ...trainers.auto.rules import resolve
from ...trainers.refine.method import RefinementResult, refine_adapter
from ...trainers.refine.settings import DEFAULT_METHOD, DRAFT, NFT, ONLY, RefinementSettings
from ...trainers.run import TrainingResult
from ...trainers.state.run_folder import RunFolder
from ...trainers.subject.method import train_subject
from ...trainers.validation.image_metrics import Validator
from .. import Row
from ..harness.parallel import each
from ..harness.statistics import gain
from ..harness.workshop import Workshop
from ..subject.bench import Bench as Subjects
from ..subject.lessons import Run
from ..subject.sets import references
from .costs import per_round, within
from .curves import Point, along, envelope, first_at, gains, times
from .prompts import GUARDED, prompts, unseen
from .rows import NEVER, lower, measured, told

log = logging.getLogger(__name__)

CLIP = WEIGHTS / "clip"

STRENGTHS = (0.75, 0.5, 0.25)  # of the start alone, besides 1 and 0

TURNED = ((1.0, 1.5), (1.0, 1.0), (1.0, 0.5), (1.0, 0.0))

LOWERED = ((1.0, 1.0), (0.7, 0.7), (0.4, 0.4))
"""two ways of (strength of the start, strength of the refinement), on which subject fidelity falls or rises"""

DEFAULT = dict(
    prompts_per_round=6, group=8, updates=2, trained_steps=4, sampling_steps=12, guidance=3.0, guard_prompts=GUARDED,
    subject_floor=0.7, diversity_floor=0.4,
)  # fmt: skip
"""Floors are lower than a user's: CLIP-I sees less of the subject as soon as it wears a hat, and the start, which draws
the same picture again and again, is no more than the subject's references are in it."""

OWN = {NFT: dict(updates=3, trained_steps=2), DRAFT: dict(updates=1)}
"""of a method alone; draft learns from pictures that must be its own"""

TINY = dict(
    prompts_per_round=2, group=2, updates=1, trained_steps=1, sampling_steps=4, guidance=1.0, guard_prompts=1,
    skip_last=1, save_every=1000,
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is measured. Budgets are evaluations of the denoiser, about 4 ms each on one processor.

    With two processors the headline is estimated at 45 minutes, half of them for its starts, the mix at 8, the baseline
    at 8 and the methods at 11.
    """

    subjects: int = 6  # of the world's, every second one, one seed each
    steps: int | None = None  # of the start; None takes twice the chosen number
    judged: int = 24  # prompts
    activities: int = 14  # of 24 in the world, four of which are judged and six watched
    few: int = 6  # activities of the methods' table: a round draws them all
    budget: int = 72_000
    mix_budget: int = 24_000
    method_budget: int = 15_000
    reward_budget: int = 38_000  # against the baseline
    epochs: int = 3  # of the baseline: 37,800 evaluations
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    pace_steps: int = 10  # sampling steps where speeds are compared
    pace_rounds: int = 3
    settings: Mapping[str, Any] | None = None  # over DEFAULT
    goals: bool = True


FULL = Size()

QUICK = Size(1, 30, 6, 6, 3, 300, 300, 150, 300, 1, (1e-3,), 4, 1, TINY, False)


@dataclass(frozen=True)
class Bench:
    """What is measured: several subjects for the headline, one subject and two seeds for tables."""

    shop: Workshop
    size: Size = FULL

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.shop, not self.size.goals)

    @property
    def headline_runs(self) -> list[Run]:
        return [Run(subject.name, 0) for subject in world.SUBJECTS[::2][: self.size.subjects]]

    def goal(self, value: float) -> float | None:
        return value if self.size.goals else None

    # --------------------------------------------------------------------------------------------- start, refinement

    def trained(self, run: Run) -> TrainingResult:
        """The default recipe at twice the chosen steps, looked at by the validation, which ends nothing."""
        pictures = self.shop.with_priors(references(self.shop.sets, run.subject))
        steps = self.size.steps or 2 * self.chosen_steps(pictures)
        settings = SubjectSettings(steps=steps, seed=run.seed, keep_validated=True, patience=0)
        with self.shop.alone(f"start_{run.subject}_{run.seed}_{steps}"):
            return train_subject(
                self.shop.base, pictures, settings, self.shop.folder / "starts", self.shop.device, name="bench",
                validator=Validator(CLIP),
            )  # fmt: skip

    def prepare(self, run: Run) -> None:
        """Train the start; what is trained does not go back from a process of its own."""
        self.trained(run)

    def chosen_steps(self, pictures: TrainingSet) -> int:
        settings = SubjectSettings()
        with open_base(self.shop.base, self.shop.device) as networks:
            return resolve(settings, gather_auto_inputs(networks, pictures, settings))[0].steps

    def start(self, run: Run) -> Adapter:
        """That after the last step."""
        result = self.trained(run)
        return read_lora(RunFolder(result.folder, "").validated(len(result.losses)))

    def auto(self, run: Run) -> Adapter:
        """That which validation chose of the same training."""
        return self.trained(run).adapter

    def settings(self, budget: int, readings: int = 8, **changes) -> RefinementSettings:
        """As many rounds as the budget pays for, and `readings` on their way."""
        method = changes.get("method", DEFAULT_METHOD)
        wanted = {"method": method, **DEFAULT, **OWN.get(method, {}), **(self.size.settings or {}), **changes}
        known = {name: value for name, value in wanted.items() if method in ONLY.get(name, (method,))}
        chosen = within(RefinementSettings.from_mapping(known), budget)
        return replace(chosen, guard_every=max(1, chosen.steps // chosen.updates // readings), log_every=1000)

    def reward(self, run: Run, likeness: bool = True) -> Reward:
        looks = tuple(sample.image for sample in references(self.shop.sets, run.subject).references)
        terms = (RewardTerm("CLIP-T contrast", CLIP), RewardTerm("CLIP-I", CLIP, 0.6))
        return Reward(terms if likeness else terms[:1], looks)

    def refined(
        self, run: Run, settings: RefinementSettings, activities: int, mixed: bool = False, likeness: bool = True
    ) -> RefinementResult:
        """The start refined with prompts that name the subject; `mixed`, half of them are of the class alone."""
        start, settings = self.start(run), replace(settings, seed=run.seed)
        asked, reward = prompts(run.noun, activities, self.size.judged, mixed), self.reward(run, likeness)
        with self.shop.alone(f"refine_{content_key(start.key, asked.key, reward.key, settings.key())[:24]}"):
            found = refine_adapter(
                self.shop.base, start, asked, reward, settings, self.shop.folder / "refined", self.shop.device,
                name="bench", pictures=references(self.shop.sets, run.subject), validator=Validator(CLIP),
            )  # fmt: skip
        log.info("%s %s: best after step %s", run.subject, settings.method, found.readings["best"])
        return found

    def fidelities(self, run: Run, adapter: Adapter | None) -> tuple[list[float], list[float]]:
        return self.subjects.fidelities(run, adapter, unseen(run.noun, self.size.judged))

    def doubt(self, run: Run, adapter: Adapter | None) -> float:
        """The share of judged samples that the two judges see differently."""
        asked = [ask.prompt for ask in unseen(run.noun, self.size.judged)]
        return mean(self.shop.judged(adapter, asked, run.seed)[1])

    def point(self, run: Run, adapter: Adapter | None) -> Point:
        subject, prompt = self.fidelities(run, adapter)
        return mean(subject), mean(prompt)

    # ------------------------------------------------------------------------------------------------------ headline

    def headline(self) -> list[Row]:
        """Over the start, the automatic checkpoint, and the start at lowered strength."""
        runs = self.headline_runs
        found = each(self.against_start, runs)
        after, before = ([value for one in found for value in one[side]] for side in ("after", "before"))
        groups = [run for run, one in zip(runs, found, strict=True) for _ in one["after"]]
        said = told(found, f"{len(runs)} of {len(world.SUBJECTS)} subjects, one seed each")
        rows = [replace(gain("refined.prompt_gain", after, before, groups, self.goal(15)), note=said)]
        for name, goal, unit, why in (
            ("subject_share", 0.93, "ratio", "whose start never shows the subject"),
            ("over_auto", 0, "points", "whose checkpoint has a subject fidelity that no strength reaches"),
            ("over_strength", 0, "points", "whose subject fidelity no strength of the start reaches"),
        ):
            values = [one[name] for one in found if one[name] is not None]
            left_out = len(found) - len(values)
            note = f"{said}; {left_out} left out {why}" if left_out else said
            scale = 100 if unit == "points" else 1
            rows.append(measured(f"refined.{name}", values, unit, self.goal(goal), note, scale))
        return rows

    def against_start(self, run: Run) -> dict[str, Any]:
        """What the headline says of one run; None for what cannot be compared."""
        start, auto = self.start(run), self.auto(run)
        result = self.refined(run, self.settings(self.size.budget), self.size.activities)
        assert result.combined is not None
        subject, prompt = self.fidelities(run, result.combined)
        subject_before, prompt_before = self.fidelities(run, start)
        base = self.point(run, None)
        weaker = [self.point(run, mixture(start, result, strength, 0.0)) for strength in STRENGTHS]
        at_least = envelope([base, *weaker, self.point(run, start)], mean(subject))
        ways = [[self.point(run, mixture(start, result, *s)) for s in way] for way in (TURNED, LOWERED)]
        ways[1].append(base)
        aim = self.point(run, auto)
        reached = [value for way in ways if (value := along(way, aim[0])) is not None]
        return {
            "after": prompt,
            "before": prompt_before,
            "doubt": max(self.doubt(run, one) for one in (start, auto, result.combined)),
            "subject_share": mean(subject) / mean(subject_before) if any(subject_before) else None,
            "over_auto": max(reached) - aim[1] if reached else None,
            "over_strength": mean(prompt) - at_least if at_least is not None else None,
        }

    # --------------------------------------------------------------------------------------------- mix of identifiers

    def id_mix(self) -> list[Row]:
        """Samples that mixed prompts need to reach what prompts with the identifier alone end with."""
        runs = self.subjects.table_runs
        first, *others = runs  # whose start the headline has trained: the others' begin at once, beside its curves
        asked = [*((run, False) for run in (*others, first)), *((run, True) for run in runs)]
        curves = dict(zip(asked, each(self.mixed_curve, asked), strict=True))
        found, notes = [], []
        for run in runs:
            alone, mixed = (curves[run, both] for both in (False, True))
            wanted = alone[max(alone)]
            reached = first_at(mixed, wanted)
            if wanted <= 0:
                notes.append(f"seed {run.seed}: the identifier alone gained nothing")
            elif reached is None:
                notes.append(f"seed {run.seed}: mixed prompts did not get there")
            found.append(NEVER if reached is None else reached / max(alone))
        return [lower(measured("idmix.samples_ratio", found, "ratio", self.goal(0.75), "; ".join(notes)))]

    def mixed_curve(self, how: tuple[Run, bool]) -> dict[float, float]:
        run, mixed = how
        settings = self.settings(self.size.mix_budget, patience=0)
        return gains(self.refined(run, settings, self.size.activities, mixed))

    # ------------------------------------------------------------------------------------------------ the baseline's

    def rewarded(self, run: Run) -> dict[float, float]:
        """The default method on the text reward alone, by evaluations: what the baseline is compared with."""
        settings = self.settings(self.size.reward_budget, patience=0)
        result = self.refined(run, settings, self.size.activities, likeness=False)
        return times(gains(result), per_round(settings) / settings.updates)


def mixture(start: Adapter, result: RefinementResult, strength: float, more: float) -> Adapter:
    """Start and refinement at their strengths, as one."""
    if (strength, more) == (1.0, 0.0):
        return start
    if (strength, more) == (1.0, 1.0) and result.combined is not None:
        return result.combined
    return sum_adapters([(start, strength), (replace(result.adapter, trigger="refinement"), more)])
