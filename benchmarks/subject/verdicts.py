"""Rows of the node's verdict "did it learn?": twenty trainings, of which half learned nothing or lost their prompts.

What a training really is, two readings of its pictures by the scene readers say, which the verdict never sees: prompts
are lost where less than half of the base's prompt fidelity is left, nothing is learned where the subject is right on
less than a quarter of the pictures. The rule of the verdict was chosen on the tuning subjects alone.
"""

from __future__ import annotations

import logging
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...augmentation.images.load import subject_from_folder
from ...core.context import RunContext
from ...core.values import TrainingSet
from ...evaluation.learned.check import Learned, check
from ...evaluation.learned.verdict import COPIED, IGNORES, LEARNED, NOTHING
from ...pocket.world import drawing, world
from ...trainers.check.common import Checker
from ...trainers.check.subject import subject_check
from ...trainers.subject.settings import SubjectSettings
from ...trainers.validation.image_metrics import Validator
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..harness.workshop import Workshop
from .sets import REFERENCES, prompt_checks, references, write_once
from .training_cases import HEADLINE_PLACE, Fidelities, SubjectRun, judge_fidelities

if TYPE_CHECKING:
    from .bench import SubjectBenchmark

log = logging.getLogger(__name__)
TUNING_SUBJECTS = ("cat_striped", "bird_two", "fish_striped", "cup_dotted", "car_striped")
REPORTED_SUBJECTS = tuple(one.name for one in world.SUBJECTS if one.name not in TUNING_SUBJECTS)
LOST = "prompts lost"
GROUPS = {LEARNED: LEARNED, NOTHING: NOTHING, COPIED: LOST, IGNORES: LOST}
LEAST_SUBJECT, LEAST_PROMPT = 0.25, 0.5  # below which nothing was learned, and prompts are lost
CLASS_PICTURES = 53  # the stream of pictures that show no subject but things of its class
GOAL = 18.0


@dataclass(frozen=True)
class VerdictCase:
    """A training of a subject in a way; `priors` are the base's pictures of the class beside its own."""

    way: str
    run: SubjectRun
    kind: str = "anywhere"
    priors: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


# By way the kind of pictures, whether with priors, and the settings.
Way = tuple[str, bool, Mapping[str, Any]]
DEFAULT: Way = ("anywhere", True, {"token": "free"})
LITTLE: Mapping[str, Way] = {
    "low rate": (
        "anywhere", True, {"token": "free", "learning_rate": 1e-5, "token_learning_rate": 1e-5, "batch_size": 1},
    ),
    "few steps": ("anywhere", True, {"token": "free", "steps": 20}),
    "class pictures": ("class", True, {"token": "free", "batch_size": 1}),
    "small alpha": ("anywhere", True, {"alpha": 0.05, "batch_size": 1}),
    "captions dropped": ("anywhere", True, {"token": "none", "caption_dropout": 1.0, "batch_size": 1}),
}  # fmt: skip
FAST: Mapping[str, Any] = {"batch_size": 1, "steps": 600, "learning_rate": 3e-3}
MUCH: Mapping[str, Way] = {
    "bare captions": ("one place, bare", False, {"token": "free", **FAST}),
    "one picture": ("one picture, bare", False, {"token": "free", **FAST}),
    "in full": ("one place, bare", False, {**FAST, "tuning": "full", "learning_rate": 1e-3}),
    "text encoder": (
        "one place, bare", False, {**FAST, "token": "free", "text_encoder": True, "text_learning_rate": 3e-3},
    ),
    "large alpha": (
        "one place, bare", False, {**FAST, "token": "free", "rank": 64, "alpha": 256.0, "learning_rate": 1e-3},
    ),
}  # fmt: skip


def cases_of(subjects: Sequence[str], good: Sequence[SubjectRun]) -> list[VerdictCase]:
    """`good` runs by the default recipe; and each way that learns little or too much, on subjects by turns."""
    cases = [VerdictCase("default", run, *DEFAULT) for run in good]
    for first, ways in ((0, LITTLE), (3, MUCH)):
        for number, (way, how) in enumerate(ways.items()):
            cases.append(VerdictCase(way, SubjectRun(subjects[(first + number) % len(subjects)], 0), *how))
    return cases


def reported_cases() -> list[VerdictCase]:
    """Twenty trainings of subjects that the rule was not chosen on."""
    again = [SubjectRun(name, 1) for name in ("cat_patched", "boat_two")]
    return cases_of(REPORTED_SUBJECTS, [*(SubjectRun(name, 0) for name in REPORTED_SUBJECTS), *again])


def tuning_cases() -> list[VerdictCase]:
    return cases_of(TUNING_SUBJECTS, [SubjectRun(name, 0) for name in TUNING_SUBJECTS[:2]])


@dataclass(frozen=True)
class Judged:
    """What a training is, what the verdict says of it, and what the readers saw: subject, prompt, the base's prompt."""

    case: VerdictCase
    truth: str
    verdict: str
    subject: float
    prompt: float
    base_prompt: float
    lines: tuple[str, ...]

    @property
    def right(self) -> bool:
        return GROUPS[self.verdict] == self.truth

    def __str__(self) -> str:
        run = self.case.run
        mark = "" if self.right else " WRONG"
        return (
            f"{self.case.way} ({run.subject}, {run.seed}): {self.truth}, verdict {self.verdict}{mark}; readers: "
            f"subject {self.subject:.2f}, prompt {self.prompt:.2f} of {self.base_prompt:.2f}; {' '.join(self.lines)}"
        )


def verdict_rows(bench: SubjectBenchmark) -> list[BenchmarkRow]:
    """How many of twenty verdicts are right, and of those on each kind of training."""
    cases = reported_cases()[:: 4 if bench.quick else 1]
    judged = each(partial(judged_case, bench.shop), cases)
    for one in judged:
        log.info("verdict: %s", one)
    table = Counter((one.truth, one.verdict) for one in judged)
    note = ", ".join(f"{truth} called {verdict}: {n}" for (truth, verdict), n in sorted(table.items()))
    right = sum(one.right for one in judged)
    total, goal = len(judged), bench.goal(GOAL)
    rows = [BenchmarkRow("verdict.right", right, f"of {total}", "higher", goal, None, total, note)]
    for truth in (LEARNED, NOTHING, LOST):
        own = [one.right for one in judged if one.truth == truth]
        if own:
            name = truth.replace(" ", "_")
            rows.append(BenchmarkRow(f"verdict.{name}", sum(own), f"of {len(own)}", "higher", None, None, len(own)))
    return rows


def judged_case(shop: Workshop, case: VerdictCase) -> Judged:
    """Train, let the verdict be given, and read the pictures."""
    chosen = pictures_of(shop, case)
    result = shop.trained(chosen, seed=case.run.seed, **case.settings)
    settings = SubjectSettings.from_mapping(dict(case.settings))
    checker = Checker(Validator(shop.weights / "clip"))
    with shop.locked(f"learned_{result.folder.name}"):
        work = subject_check(shop.base, chosen, settings, result, checker)
        learned: Learned = check(work, RunContext(result.folder, shop.device))
    own, base = (readings(shop, case.run, adapter) for adapter in (result.adapter, None))
    prompt, before = statistics.mean(own.prompt), statistics.mean(base.prompt)
    subject = statistics.mean(own.subject)
    truth = LEARNED if subject >= LEAST_SUBJECT else NOTHING
    truth = LOST if prompt < LEAST_PROMPT * before else truth
    verdict = learned.verdict
    return Judged(case, truth, verdict.finding, subject, prompt, before, verdict.lines)


def readings(shop: Workshop, run: SubjectRun, adapter: Any) -> Fidelities:
    """Both fidelities over two seeds; the base is asked for the class."""
    checks = prompt_checks(run.noun, f"sks {run.noun}" if adapter is not None else run.noun)
    parts = [judge_fidelities(shop, replace(run, seed=seed), adapter, checks) for seed in (0, 1)]
    return Fidelities(*(sum((getattr(part, name) for part in parts), []) for name in ("subject", "prompt", "doubts")))


def pictures_of(shop: Workshop, case: VerdictCase) -> TrainingSet:
    """The pictures of a case: several, one, all in one place, or of the class; bare ones have captions without it."""
    if case.kind == "class":
        one = class_pictures(shop.sets, case.run.noun)
    else:
        place = HEADLINE_PLACE if case.kind.startswith("one place") else None
        one = references(shop.sets, case.run.subject, place)
    if case.kind.endswith("bare"):
        one = replace(one, samples=tuple(replace(s, caption=f"a photo of a {one.trigger}") for s in one.samples))
    one = replace(one, samples=one.samples[:1]) if case.kind.startswith("one picture") else one
    return shop.with_priors(one) if case.priors else one


def class_pictures(folder: Path, noun: str) -> TrainingSet:
    """Pictures captioned as those of a subject, each of which shows another thing of the class."""
    folder = folder / f"class_{noun}"

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        for index in range(REFERENCES):
            rng = world.rng_of(CLASS_PICTURES, 1000 * world.CLASSES.index(noun) + index)
            thing = replace(world.random_thing(rng, 0.5), noun=noun)
            place = list(world.PLACES)[int(rng.integers(len(world.PLACES)))]
            picture, (mask,) = drawing.render(world.arrange(rng, (thing,), place, "one"))
            stem = folder / f"{noun}_{index:02d}"
            picture.save(stem.with_suffix(".png"))
            mask.save(stem.with_name(stem.name + "_mask.png"))
            stem.with_suffix(".txt").write_text(f"a photo of a sks {noun} {world.PLACES[place]}\n")

    write_once(folder, write)
    return subject_from_folder(folder, "sks", noun)
