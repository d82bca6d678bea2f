"""Training from end to end, whatever the method: values in, networks opened, run's folder, the loop, adapter out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from ..models.adapters import Injected
from ..models.errors import FewShotError
from ..models.formats import write_lora
from ..models.loading import Networks, open_base
from ..models.sampling import sample
from ..models.values import Adapter, BaseModelRef, TrainingSet, content_key
from ..models.watching import Silent, Watcher
from .auto import Facts, resolve
from .checkpoint import Checkpoints, make_folder
from .loop import Diverged, Outcome, Plan, Step, train
from .memory import free_memory
from .optimisation import Rates
from .processes import Alone, Processes
from .runs import Run, find_run, open_run
from .settings import SubjectSettings

log = logging.getLogger(__name__)

PREVIEW_STEPS, PREVIEW_SEED = 20, 0
STATE_BYTES = 3 * 4 * 3  # a trained number: itself and two moments in fp32, in up to three files at a time


@dataclass(frozen=True)
class TrainingResult:
    """What training gives.

    `terms` holds each loss term at each step, unweighted; `losses` their weighted sum. `resumed_from` is the step that
    was gone on from: 0 for a new run, all steps for one that was found finished. `seconds` include earlier parts.
    """

    adapter: Adapter
    losses: tuple[float, ...]
    terms: Mapping[str, tuple[float, ...]]
    folder: Path
    resumed_from: int
    seconds: float

    @property
    def lora(self) -> Path:
        """The LoRA file in the run's folder."""
        return Run(self.folder, "").lora


class Method(Protocol):
    """What differs between methods. `revision` is raised whenever the method's arithmetic changes."""

    name: str
    revision: int

    def prepare(
        self,
        networks: Networks,
        pictures: TrainingSet,
        chosen: SubjectSettings,
        start_from: Adapter | None,
        watcher: Watcher,
    ) -> tuple[Step, Injected]:
        """What one step computes, and what it trains."""
        ...


def train_with(
    method: Method,
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    runs: Path,
    device: torch.device | str,
    watcher: Watcher | None = None,
    name: str = "run",
    start_from: Adapter | None = None,
    tokenizer_folder: Path | None = None,
    processes: Processes | None = None,
) -> TrainingResult:
    """Train by `method`; arguments, result and errors are those of `subject.train_subject`."""
    with torch.inference_mode(False), torch.enable_grad():  # the host may call under inference mode
        key = run_key(method, base, pictures, settings, start_from)
        found = find_run(runs, key)
        ended = found.finished() if found else None
        if found and ended:
            return _result_again(found, *ended)
        watcher = watcher or Silent()
        with open_base(base, torch.device(device), watcher, tokenizer_folder=tokenizer_folder) as networks:
            chosen, reasons = resolve(settings, gather_facts(networks, pictures))
            for reason in reasons:
                log.info("auto: %s", reason)
            inputs = dict(base=base, pictures=pictures, settings=settings, chosen=chosen, auto=reasons, device=device)
            step, injected = method.prepare(networks, pictures, chosen, start_from, watcher)
            try:
                job = _Job(networks, injected, step, pictures, chosen, watcher, processes or Alone(), name)
                return job.run(runs, key, inputs)
            finally:
                injected.remove()


def run_key(
    method: Method,
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    start_from: Adapter | None = None,
) -> str:
    """The content key of a run: contents, settings that matter, and the method's revision."""
    weights = [base.key, base.prediction, base.zero_snr, base.clip_skip, base.dtype]
    start = start_from.key if start_from is not None else None
    return content_key(method.name, method.revision, weights, pictures.key, settings.key(), start)


def gather_facts(networks: Networks, pictures: TrainingSet) -> Facts:
    """What `auto` choices depend on."""
    return Facts(
        references=sum(1 for sample in pictures.references if not sample.others),
        concepts=len({sample.concept for sample in pictures.references}),
        priors=len(pictures.priors),
        parameters=sum(p.numel() for p in networks.unet.parameters()),
        config=networks.unet.config,
        pixels=networks.downscale,
        native_resolution=networks.resolution,
        text_encoders=len(networks.text_encoders),
        half=networks.dtype != torch.float32,
        free=free_memory(networks.device),
    )


def _result_again(run: Run, adapter: Adapter, result: Mapping[str, Any]) -> TrainingResult:
    log.info("a finished run with the same inputs lies in %s and is returned", run.folder)
    terms = {name: tuple(values) for name, values in result["terms"].items()}
    losses = tuple(result["losses"])
    return TrainingResult(adapter, losses, terms, run.folder, len(losses), result["seconds"])


@dataclass
class _Job:
    """One training with its networks open and its layers in them."""

    networks: Networks
    injected: Injected
    step: Step
    pictures: TrainingSet
    chosen: SubjectSettings
    watcher: Watcher
    processes: Processes
    name: str

    def run(self, runs: Path, key: str, inputs: Mapping[str, Any]) -> TrainingResult:
        run = self.open(runs, key, inputs)
        if self.chosen.gradient_checkpointing == "on":
            self.networks.unet.enable_gradient_checkpointing()
        checkpoints = Checkpoints(run.checkpoints, key)
        try:
            outcome = train(
                self.step,
                self.injected.parameters,
                self.plan(run),
                checkpoints,
                run.journal,
                self.watcher,
                self.processes,
            )
        except Diverged as error:
            if not error.step:
                raise
            raise Diverged(f"{error} The LoRA so far is {run.part(error.step)}.", error.step) from error
        return self.finish(run, outcome)

    def open(self, runs: Path, key: str, inputs: Mapping[str, Any]) -> Run:
        """The run's folder; the main process makes it, and all of them see it."""
        if self.processes.main:
            trained = sum(p.numel() for p in self.injected.parameters.values())
            run = open_run(runs, self.name, key, inputs, STATE_BYTES * trained)
            checkpoints = Checkpoints(run.checkpoints, key)
            checkpoints.tidy()
            newest = checkpoints.latest()
            run.journal.cut(newest.step if newest else 0)
        self.processes.wait()
        found = find_run(runs, key)
        if found is None:
            raise FewShotError(f"not every process sees the run's folder under {runs}. Use a folder they share.")
        return found

    def plan(self, run: Run) -> Plan:
        chosen = self.chosen
        rates = {"unet": chosen.learning_rate, "text_encoder": chosen.text_learning_rate}
        previews = [(chosen.preview_every, lambda step: self.preview(run, step))]
        return Plan(
            steps=chosen.steps,
            rates=Rates(rates, chosen.steps, round(chosen.warmup * chosen.steps), chosen.schedule),
            weight_decay=chosen.weight_decay,
            max_gradient_norm=chosen.max_gradient_norm,
            save_every=chosen.save_every,
            log_every=chosen.log_every,
            scale_losses=self.networks.dtype == torch.float16 and self.networks.device.type == "cuda",
            visits=previews if chosen.preview_every and self.processes.main else [],
            cut=lambda step: self.keep_part(run, step),
        )

    def preview(self, run: Run, step: int) -> None:
        """Sample with the adapter as it is. A preview that fails is named in the log and harms nothing."""
        prompt = self.chosen.preview_prompt or f"a photo of {self.pictures.trigger}"
        side = self.chosen.resolution
        try:
            pixels = sample(self.networks, [prompt], [PREVIEW_SEED], width=side, height=side, steps=PREVIEW_STEPS)
            picture = Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
            picture.save(make_folder(run.samples) / f"step_{step:08d}.png")
        except Exception as error:  # whatever it is, the training is worth more than its preview
            log.warning("no preview at step %d: %s", step, error)
            return
        self.watcher.progress(step, self.chosen.steps, f"preview at step {step}", picture=picture)

    def extract(self) -> Adapter:
        return self.injected.extract(self.pictures.trigger, describe(self.chosen, self.pictures))

    def keep_part(self, run: Run, step: int) -> None:
        """The LoRA of a run that was cut, beside its state; it takes the place of an earlier part."""
        path = run.part(step)
        earlier = [part for part in run.parts() if part != path]
        if not path.exists():
            write_lora(self.extract(), path)
        for part in earlier:
            part.unlink()
        log.info("training was cut after step %d; the LoRA so far is %s", step, path)

    def finish(self, run: Run, outcome: Outcome) -> TrainingResult:
        adapter = self.extract()
        weights = self.step.weights
        columns = zip(*(outcome.terms[name] for name in weights), strict=True)
        losses = tuple(sum(w * v for w, v in zip(weights.values(), values, strict=True)) for values in columns)
        if self.processes.main:
            if not run.lora.exists():
                write_lora(adapter, run.lora)
            run.finish(adapter, dict(losses=losses, terms=dict(outcome.terms), seconds=outcome.seconds))
            for part in run.parts():
                part.unlink()
        return TrainingResult(adapter, losses, outcome.terms, run.folder, outcome.resumed_from, outcome.seconds)


def describe(chosen: SubjectSettings, pictures: TrainingSet) -> dict[str, str]:
    """What a LoRA's metadata says of its training, by the names other tools read; no file names and no captions."""
    values = {
        "ss_max_train_steps": chosen.steps,
        "ss_steps": chosen.steps,
        "ss_learning_rate": chosen.learning_rate,
        "ss_unet_lr": chosen.learning_rate,
        "ss_text_encoder_lr": chosen.text_learning_rate if chosen.text_encoder else None,
        "ss_lr_scheduler": chosen.schedule,
        "ss_lr_warmup_steps": round(chosen.warmup * chosen.steps),
        "ss_optimizer": "torch.optim.AdamW",
        "ss_max_grad_norm": chosen.max_gradient_norm,
        "ss_seed": chosen.seed,
        "ss_resolution": f"({chosen.resolution}, {chosen.resolution})",
        "ss_min_snr_gamma": chosen.min_snr_gamma or None,
        "ss_noise_offset": chosen.noise_offset or None,
        "ss_prior_loss_weight": chosen.prior_weight,
        "ss_batch_size_per_device": chosen.batch_size,
        "ss_num_train_images": len(pictures.references),
        "ss_num_reg_images": len(pictures.priors),
    }
    return {name: str(value) for name, value in values.items()}
