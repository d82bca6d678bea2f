"""The run: subject by subject all sides, each part found where it was done before."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ...augmentation.images.load import load_picture
from ...core.context import RunContext
from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.values import BaseModelRef, Prompt, PromptSet, TrainingSet, content_key
from ...evaluation.measurement import Measure
from ...evaluation.prompts.sets import insert_phrase, prompt_set
from ...evaluation.samples import Candidate, DrawSettings, ImageFiles, draw
from ...models.open import base_from_path
from ...models.stable_diffusion.files.load import comfyui_tokenizer
from .arguments import command_line
from .clock import Clock, SlowLog, duration
from .judges import Judges, caution, find_judges, measures_of, tried
from .results import Results, SubjectResult
from .scores import Scored, real_likeness, score
from .sides import BASE, OURS, PLAIN, REFINED, SIDES, TITLES, Trained, Trainings
from .subjects import BenchmarkSubject, read_subjects, spread

log = logging.getLogger(__name__)
# The kinds of parts, which take times of their own.
PRIORS, TRAINING, REFINING, DRAWING, SCORING = "priors", "training", "refinement", "drawing", "scoring"


@dataclass
class Benchmark:
    """One run of the benchmark, all of whose files lie in `options.out`."""

    options: argparse.Namespace
    base: BaseModelRef
    subjects: Sequence[BenchmarkSubject]
    judges: Judges
    device: torch.device
    models: dict[str, str] = field(default_factory=dict)
    not_measured: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, options: argparse.Namespace, device: torch.device) -> Benchmark:
        """Everything is read and checked here that can be wrong before hours are spent.

        Raises:
            FewShotError: the base is of another family, there are no subjects, no CLIP, or settings that are none.
        """
        base = base_from_path(options.base, options.dtype)
        made = cls(options, base, read_subjects(options.pictures, options.subjects), find_judges(options), device)
        for seed in options.seeds:
            made.trainings.refinement(seed)
            for side in (PLAIN, OURS):
                made.trainings.settings(side, seed)
        return made

    @property
    def trainings(self) -> Trainings:
        context = RunContext(self.options.out, self.device, tokenizer_folder=comfyui_tokenizer(self.options.comfyui))
        return Trainings(self.base, self.judges, self.options, context)

    @property
    def draw_settings(self) -> DrawSettings:
        """The same for all sides; the pictures of a prompt have seeds from 0 on, whatever the seed of the training."""
        options = self.options
        return DrawSettings(
            options.count, 0, options.sampling_steps, options.guidance, width=options.size, height=options.size
        )

    @property
    def key(self) -> str:
        """Names the options, since the times of a share do not tell those of the whole."""
        return content_key("dreambench", self.base.key, command_line(self.options))[:16]

    def plan(self) -> dict[str, int]:
        """How many parts there are of each kind."""
        runs = len(self.subjects) * len(self.options.seeds)
        drawn = len(self.subjects) + len(SIDES) * runs
        nouns = len(self.subjects)  # those of one class find their priors drawn
        return {PRIORS: nouns, TRAINING: 2 * runs, REFINING: runs, DRAWING: drawn, SCORING: drawn}

    def cost(self) -> str:
        """What all of it is, told before it begins."""
        plan, options = self.plan(), self.options
        nouns = len({subject.noun for subject in self.subjects})
        drawn = plan[DRAWING] * options.prompts * options.count
        live = sum(subject.live for subject in self.subjects)
        return (
            f"{len(self.subjects)} subjects ({live} live, {len(self.subjects) - live} objects), {len(options.seeds)} "
            f"seed(s) of training: {plan[TRAINING]} trainings, {plan[REFINING]} refinements, "
            f"{nouns * options.priors} prior pictures, {drawn} pictures ({options.prompts} prompts x {options.count} "
            f"of the base and {len(SIDES)} sides), on {self.device}"
        )

    def run(self, finished: Callable[[Results, Clock], None]) -> Results:
        """Measure; `finished` is called after each subject with all that is known by then."""
        clock = Clock(self.options.out / "times" / f"{self.key}.json", self.plan())
        measures, missing = measures_of(self.judges, self.device)
        first = load_picture(self.trainings.pictures(self.subjects[0]).references[0].image)
        measures, broken = tried(measures, first, self.subjects[0].noun, self.device)
        self.not_measured = [*missing, *broken]
        for line in self.not_measured:
            log.info("not measured: %s", line)
        self.models = {measure.name: measure.metric.model_id for measure in measures}
        names = list(self.models)
        results = Results([], names, {name: caution(self.judges, name) for name in names})
        for subject in self.subjects:
            measured = SubjectMeasurement(self, subject, measures, clock).run()
            results = replace(results, subjects=[*results.subjects, measured])
            finished(results, clock)
            done = len(results.subjects)
            if done == 1 and len(self.subjects) > 1:
                spent = sum(clock.total(kind) for kind in clock.plan)
                log.info("the first subject took about %s; %s", duration(spent), clock.left())
        return results

    def prompts(self, subject: BenchmarkSubject, pictures: TrainingSet) -> PromptSet:
        """The subject's prompts, evenly spread over the 25."""
        lines = spread(subject.lines, self.options.prompts)
        return prompt_set(lines, pictures.concepts[0], len(lines))[0]

    def lines_of(self, name: str) -> list[str]:
        """The prompts of a subject as the base is asked."""
        subject = next(one for one in self.subjects if one.name == name)
        return [insert_phrase(line, subject.noun) for line in spread(subject.lines, self.options.prompts)]


@dataclass
class SubjectMeasurement:
    """All sides of one subject: trained, drawn and scored."""

    bench: Benchmark
    subject: BenchmarkSubject
    measures: Sequence[Measure]
    clock: Clock

    def __post_init__(self) -> None:
        self.pictures = self.bench.trainings.pictures(self.subject)
        self.prompts = self.bench.prompts(self.subject, self.pictures)

    def run(self) -> SubjectResult:
        """A side that cannot be trained is named and does not stop the others."""
        subject, seeds = self.subject, self.bench.options.seeds
        references = [sample.image for sample in self.pictures.references]
        result = SubjectResult(subject.name, subject.noun, subject.live, len(references))
        result.references = [picture.path for picture in references]
        result.real = real_likeness(self.measures, self.scored(ImageFiles(())), self.bench.trainings.context)
        with self.clock.part(PRIORS, subject.name):
            learned = self.bench.trainings.with_priors(self.pictures, SlowLog(PRIORS))
        self.measure(result, Candidate(BASE), f"{subject.name}, {TITLES[BASE]}")
        for seed, side in ((seed, side) for seed in seeds for side in SIDES):
            name = f"{subject.name}, {TITLES[side]}" + (f", seed {seed}" if len(seeds) > 1 else "")
            try:
                trained = self.train(side, seed, learned, name)
            except FewShotError as error:
                result.failed[side] = str(error)
                self.clock.leave_out(name, (REFINING if side == REFINED else TRAINING, DRAWING, SCORING))
                log.warning("%s is not measured: %s", name, error)
                continue
            result.steps.setdefault(side, []).append(trained.chosen)
            self.measure(result, Candidate(side, trained.adapter), name)
        for side in result.failed:  # of several seeds all count or none does
            result.scores.pop(side, None)
            result.files.pop(side, None)
        return result

    def train(self, side: str, seed: int, learned: TrainingSet, name: str) -> Trained:
        """Train a side, on the pictures with their priors."""
        with self.clock.part(REFINING if side == REFINED else TRAINING, name) as own:
            trained = self.bench.trainings.train(side, self.subject, seed, learned, SlowLog(TITLES[side]))
            own["seconds"] = trained.seconds
        return trained

    def measure(self, result: SubjectResult, candidate: Candidate, name: str) -> None:
        """Draw a side's pictures, and add their scores to the result."""
        with self.clock.part(DRAWING, name):
            context = self.context("samples", SlowLog(DRAWING))
            (images,) = draw(self.bench.base, [candidate], self.prompts, self.bench.draw_settings, context)
        result.files.setdefault(candidate.name, list(images.files))
        with self.clock.part(SCORING, name):
            values = score(self.measures, self.scored(images), self.context("scores", SlowLog(SCORING)))
        result.add(candidate.name, values)

    def context(self, folder: str, progress: Progress) -> RunContext:
        return replace(self.bench.trainings.context, folder=self.bench.options.out / folder, progress=progress)

    def scored(self, images: ImageFiles) -> Scored:
        references = [sample.image for sample in self.pictures.references]
        count = self.bench.options.count
        prompts: list[Prompt] = [prompt for prompt in self.prompts.prompts for _ in range(count)]
        return Scored(images, prompts, [load_picture(p) for p in references], [picture.key for picture in references])
