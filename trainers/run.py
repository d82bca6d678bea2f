"""Training from end to end, whatever the method: values in, networks opened, run's folder, the loop, adapter out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..core.atomic import make_folder
from ..core.errors import FewShotError
from ..core.text.embeddings import reading_key
from ..core.text.weights import escaped
from ..core.text.words import find_any
from ..core.values import Adapter, BaseModelRef, TrainingSet, content_key
from ..evaluation.prompts.lists import TRIGGER
from ..evaluation.selection import Curve
from ..models.adapters.inject import Injected
from ..models.adapters.token_files import write_parts
from ..models.contract import DiffusionModel
from ..models.export import trained_base
from ..models.offload import Offloaded
from ..models.sampling import SamplingOptions
from .auto.inputs import gather_auto_inputs
from .auto.rules import resolve
from .context import TrainingContext
from .distributed import Processes
from .loop import Diverged, Outcome, Plan, train
from .method import Chosen, Method, TrainingResult, TrainingStep
from .open import move_to_device, opened
from .optim.optimizers import LearningRates
from .save import extract_lora, training_metadata, write_base, write_learned
from .settings.common import Optimization
from .settings.training import TrainingSettings
from .state.checkpoint import Checkpoints
from .state.run_folder import RunFolder, find_run, open_run
from .targets import resolve_token
from .validation.image_metrics import Validation, Validator, sample_pictures, validation_interval
from .validation.report import report
from .validation.schedule import FILE, BestCheckpoint, ValidatedCheckpoint, read_readings

log = logging.getLogger(__name__)

PREVIEW_STEPS, PREVIEW_GUIDANCE, PREVIEW_SEED = 20, 7.0, 0
STATE_BYTES = 4 * 4 * 3  # a trained number: itself, two moments and its best value in fp32, in up to three files


def train_with(
    method: Method[Chosen],
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: Chosen,
    context: TrainingContext,
    start_from: Adapter | None = None,
) -> TrainingResult:
    """Train by `method`; arguments, result and errors are those of `subject.method.train_subject`."""
    with torch.inference_mode(False), torch.enable_grad():  # the host may call under inference mode
        if not settings.validates:
            context = replace(context, validator=None)
        key = run_key(method, base, pictures, settings, start_from, context.validator)
        read = [reading_key(prompt, context.embedding_folders) for prompt in validation_prompts(settings, context)]
        read += [("any case",)] if settings.word is not None and written_otherwise(pictures) else []
        key = content_key(key, read) if any(read) else key
        found = find_run(context.folder, key)
        ended = found.finished() if found else None
        if found and ended:
            return _result_again(found, base, *ended)
        device = torch.device(context.device)
        with opened(base, device, context.progress, context.tokenizer_folder, context.embedding_folders) as model:
            validator_bytes = context.validator.resident if context.validator is not None else None
            settled, first = resolve_token(settings, model, pictures, start_from)
            chosen, reasons = resolve(settled, gather_auto_inputs(model, pictures, settled, validator_bytes))
            reasons = (*first, *reasons)
            for reason in reasons:
                log.info("auto: %s", reason)
            inputs = dict(
                base=base, pictures=pictures, settings=settings, chosen=chosen, auto=reasons, device=context.device
            )
            move_to_device(model, chosen)
            step, injected = method.prepare(model, pictures, chosen, start_from, context.progress)
            try:
                return _Job(model, injected, step, pictures, chosen, context).run(key, inputs)
            finally:
                injected.remove()


def run_key(
    method: Method[Chosen],
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: Chosen,
    start_from: Adapter | None = None,
    validator: Validator | None = None,
) -> str:
    """The content key of a run: contents, settings that matter, the method's revision, and what chooses the step."""
    weights = [base.key, base.prediction, base.zero_snr, base.clip_skip, base.dtype]
    start = start_from.key if start_from is not None else None
    chooser = validator.key if validator is not None else None
    own = (method.name, method.revision, weights, pictures.key, settings.key(), start, chooser)
    return content_key(*own, *method.inputs)


def written_otherwise(pictures: TrainingSet) -> bool:
    """Whether a caption has an identifier in another form, such as another case, which once was no learned word."""
    words = {concept.identifier for concept in pictures.concepts}
    return any(found.group() != word for sample in pictures.samples for found, word in find_any(words, sample.caption))


def validation_prompts(settings: TrainingSettings, context: TrainingContext) -> list[str]:
    """A person's own prompts that the validation draws."""
    chosen = settings.validation if context.validator is not None else None
    return chosen.validation_prompts.split("|") if chosen is not None else []


def _result_again(run: RunFolder, base: BaseModelRef, adapter: Adapter, result: Mapping[str, Any]) -> TrainingResult:
    log.info("a finished run with the same inputs lies in %s and is returned", run.folder)
    terms = {name: tuple(values) for name, values in result["terms"].items()}
    losses = tuple(result["losses"])
    curve = Curve.of(result["validation"]) if result["validation"] else None
    trained = trained_base(base, run.model) if run.model.exists() else None
    return TrainingResult(
        adapter, losses, terms, run.folder, len(losses), result["seconds"], result["chosen"], curve, trained,
        read_readings(run.folder / FILE),
    )  # fmt: skip


@dataclass
class _Job:
    """One training with its networks open and its layers in them."""

    model: DiffusionModel
    injected: Injected
    step: TrainingStep
    pictures: TrainingSet
    chosen: TrainingSettings
    context: TrainingContext

    def __post_init__(self) -> None:
        parts = self.model.offloadable(self.step.reads_text) if self.chosen.offload == "on" else []
        self.offloaded = Offloaded(parts, self.model.device)

    def run(self, key: str, inputs: Mapping[str, Any]) -> TrainingResult:
        run = self.open(key, inputs)
        if self.chosen.gradient_checkpointing == "on":
            self.model.checkpointing(True)
        checkpoints = Checkpoints(run.checkpoints, key)
        best_checkpoint = self.best_checkpoint(run)
        self.offloaded.offload()
        try:
            plan = self.plan(run, best_checkpoint)
            outcome = train(self.step, self.injected.parameters, plan, checkpoints, run.journal, self.context)
        except Diverged as error:
            if not error.step:
                raise
            raise Diverged(f"{error} What was learned so far is {run.parts()[0]}.", error.step) from error
        return self.finish(run, outcome, best_checkpoint)

    def open(self, key: str, inputs: Mapping[str, Any]) -> RunFolder:
        """The run's folder; the main process makes it, and all of them see it."""
        runs = self.context.folder
        if self.processes.main:
            trained = sum(p.numel() for p in self.injected.parameters.values())
            run = open_run(runs, self.context.name, key, inputs, STATE_BYTES * trained)
            checkpoints = Checkpoints(run.checkpoints, key)
            checkpoints.tidy()
            newest = checkpoints.latest()
            run.journal.cut(newest.step if newest else 0)
        self.processes.barrier()
        found = find_run(runs, key)
        if found is None:
            raise FewShotError(f"not every process sees the run's folder under {runs}. Use a folder they share.")
        return found

    def best_checkpoint(self, run: RunFolder) -> BestCheckpoint | None:
        """The validations of the run, where there is a model for them."""
        own = self.step.best_checkpoint(run, self.offloaded.on_device)
        if own is not None:
            return own
        chosen, validator = self.chosen.validation, self.context.validator
        if chosen is None or validator is None:
            log.info("no model validates: the weights after the last step are returned")
            if chosen is not None and chosen.needing_validation:
                log.warning("without a model that validates, %s: nothing is done", chosen.needing_validation)
            return None
        every = validation_interval(chosen, chosen.rows(len(self.pictures.priors)))
        log.info("auto: a validation of %d pictures every %d steps", chosen.validation_pictures, every)
        self.offloaded.offload()  # before the models that validate come to the device
        look = Validation(
            self.model, self.pictures, chosen, validator, replace(self.context, folder=run.samples),
            self.offloaded.on_device,
        )  # fmt: skip

        def measure(step: int) -> tuple[float, float, float]:
            if chosen.keep_validated:
                self.keep_validated(run, step)
            return look(step)

        return ValidatedCheckpoint(measure, every, chosen.steps, chosen.patience, look.likeness)

    def keep_validated(self, run: RunFolder, step: int) -> None:
        """The LoRA as it is now, beside those of the other validated steps."""
        path = run.validated(step)
        if not path.exists():
            self.write(self.extract(step), make_folder(path.parent) / path.name)

    def write(self, adapter: Adapter, path: Path) -> None:
        write_learned(self.model.ref, adapter, path, self.described(), self.chosen.everything)

    def described(self) -> dict[str, str]:
        return training_metadata(self.model.ref, self.chosen, self.pictures)

    @property
    def processes(self) -> Processes:
        return self.context.processes

    def plan(self, run: RunFolder, best_checkpoint: BestCheckpoint | None) -> Plan:
        chosen = self.chosen
        previews = [(chosen.preview_every, lambda step: self.preview(run, step))]
        return Plan(
            steps=chosen.steps,
            rates=rates_of(chosen),
            weight_decay=chosen.decay,
            optimizer=chosen.optimizer_name,
            rules=self.injected.rules,
            max_gradient_norm=chosen.max_gradient_norm,
            save_every=chosen.save_every,
            log_every=chosen.log_every,
            scale_losses=self.model.dtype == torch.float16 and self.model.device.type == "cuda",
            visits=previews if chosen.preview_every and self.processes.main else [],
            cut=lambda step: self.keep_part(run, step),
            best_checkpoint=best_checkpoint,
            memory=self.step.memory,
            divergence=self.step.divergence,
            differentiable=self.model.differentiable,
        )

    def preview(self, run: RunFolder, step: int) -> None:
        """Sample with the adapter as it is. A preview that fails is named in the log and harms nothing."""
        trigger = escaped(self.pictures.trigger)
        prompt = self.chosen.preview_prompt.replace(TRIGGER, trigger) or f"a photo of {trigger}"
        side = self.chosen.resolution
        try:
            pixels = sample_pictures(
                self.model, self.offloaded.on_device, [prompt], [PREVIEW_SEED],
                SamplingOptions(side, side, PREVIEW_STEPS, self.model.family.guidance or PREVIEW_GUIDANCE, batch=1),
            )  # fmt: skip
            picture = Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
            picture.save(make_folder(run.samples) / f"step_{step:08d}.png")
        except Exception as error:  # whatever it is, the training is worth more than its preview
            log.warning("no preview at step %d: %s", step, error)
            return
        self.context.progress.report(step, self.chosen.steps, f"preview at step {step}", picture=picture)

    def extract(self, step: int) -> Adapter:
        """The adapter as it is, which is that after `step` steps."""
        metadata = self.described() | {"ss_steps": str(step)}
        return self.injected.extract(self.pictures.trigger, metadata)

    def keep_part(self, run: RunFolder, step: int) -> None:
        """The LoRA of a run that was cut, beside its state; it takes the place of an earlier part."""
        path = run.part(step)
        earlier = [part for part in run.parts() if not part.name.startswith(path.stem)]
        self.write(self.extract(step), path)
        for part in earlier:
            part.unlink()
        log.info("training was cut after step %d; what was learned so far is %s", step, path)

    def finish(self, run: RunFolder, outcome: Outcome, best_checkpoint: BestCheckpoint | None) -> TrainingResult:
        adapter = self.extract(outcome.chosen)
        curve = best_checkpoint.curve if best_checkpoint is not None else None
        weights = self.step.weights
        columns = zip(*(outcome.terms[name] for name in weights), strict=True)
        losses = tuple(sum(w * v for w, v in zip(weights.values(), values, strict=True)) for values in columns)
        base = None
        if self.chosen.everything:
            if self.processes.main:
                write_base(self.model.ref, adapter, run.model, self.described())
            self.processes.barrier()
            base = trained_base(self.model.ref, run.model)
            adapter = extract_lora(adapter, self.chosen.extracted_rank, self.model.device, self.context.progress)
        if self.processes.main:
            if not run.lora.exists() and (adapter.factors or adapter.embeddings):
                write_parts(adapter, run.lora)
            result = dict(losses=losses, terms=dict(outcome.terms), seconds=outcome.seconds, chosen=outcome.chosen)
            run.finish(adapter, result | {"validation": curve.plain() if curve is not None else None})
            for part in run.parts():
                part.unlink()
            if curve is not None:
                report(run, self.chosen, losses, curve, outcome.chosen)
        return TrainingResult(
            adapter,
            losses,
            outcome.terms,
            run.folder,
            outcome.resumed_from,
            outcome.seconds,
            outcome.chosen,
            curve,
            base,
            best_checkpoint.plain() if best_checkpoint is not None else {},
        )


def rates_of(chosen: Optimization) -> LearningRates:
    """The learning rate of each group of parameters over the steps."""
    return LearningRates(chosen.rates, chosen.steps, round(chosen.warmup * chosen.steps), chosen.schedule)
