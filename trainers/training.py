"""Training from end to end: the values in, the run's folder, the networks opened, the loop, the adapter out."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..models.adapters import Injected, inject
from ..models.errors import FewShotError
from ..models.formats import write_lora
from ..models.loading import Networks, open_base
from ..models.sampling import sample
from ..models.values import Adapter, BaseModelRef, TrainingSet, content_key
from ..models.watching import Silent, Watcher
from .auto import Facts, resolve
from .cache import Pool, build_pool
from .checkpoint import Checkpoints, make_folder
from .loop import Outcome, Plan, train
from .memory import free_memory
from .optimisation import Rates
from .processes import Alone, Processes
from .runs import Run, find_run, open_run
from .settings import SubjectSettings
from .subject import PRIOR, REFERENCE, SubjectStep

log = logging.getLogger(__name__)

REVISION = 1
"""raised whenever the arithmetic of subject training or a rule of `auto` changes, so that no old run is returned"""

PREVIEW_STEPS, PREVIEW_SEED = 20, 0


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


def train_subject(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    runs: Path,
    device: torch.device | str,
    watcher: Watcher = Silent(),
    name: str = "subject",
    start_from: Adapter | None = None,
    tokenizer_folder: Path | None = None,
    processes: Processes = Alone(),
) -> TrainingResult:
    """Teach `base` the subject of `pictures`.

    A finished run with the same content key is returned; a cut one is gone on with, and ends (on a CPU) bit for bit as
    if it had not been cut. However training ends, its state and the LoRA so far lie in the run's folder.

    Args:
        runs: the folder of runs; this one's is <runs>/<name>_<key>/.
        name: of the folder; it does not matter to what is learned.
        start_from: an adapter to train on from; it must fit `settings`.

    Raises:
        FewShotError: something a person can mend: pictures, settings, disk, divergence.
        BaseException: whatever `watcher.check` raises.
    """
    with torch.inference_mode(False), torch.enable_grad():
        if not pictures.references:
            raise FewShotError("there are no reference pictures to learn from. Give at least one, better three to ten.")
        key = run_key(base, pictures, settings, start_from)
        found = find_run(Path(runs), key)
        ended = found.finished() if found else None
        if ended:
            return _result_again(found, *ended)
        with open_base(base, torch.device(device), watcher, tokenizer_folder=tokenizer_folder) as networks:
            facts = gather_facts(networks, pictures)
            chosen, reasons = resolve(settings, facts)
            for reason in reasons:
                log.info("auto: %s", reason)
            inputs = dict(base=base, pictures=pictures, settings=settings, chosen=chosen, auto=reasons)
            job = _Job(networks, pictures, chosen, watcher, processes, name)
            return job.run(Path(runs), key, inputs, start_from)


def run_key(
    base: BaseModelRef, pictures: TrainingSet, settings: SubjectSettings, start_from: Adapter | None = None
) -> str:
    """The content key of a run: contents and settings that matter, and the method's revision."""
    made = [base.key, base.prediction, base.zero_snr, base.clip_skip, base.dtype]
    start = start_from.key if start_from is not None else None
    return content_key("subject", REVISION, made, pictures.key, settings.key(), start)


def gather_facts(networks: Networks, pictures: TrainingSet) -> Facts:
    """What `auto` choices depend on."""
    return Facts(
        references=len(pictures.references),
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
    """One training with its networks open."""

    networks: Networks
    pictures: TrainingSet
    chosen: SubjectSettings
    watcher: Watcher
    processes: Processes
    name: str

    def run(self, runs: Path, key: str, inputs: Mapping[str, Any], start_from: Adapter | None) -> TrainingResult:
        step = self.build_step()
        with ExitStack() as stack:
            injected = self.inject(start_from)
            stack.callback(injected.remove)
            if self.chosen.gradient_checkpointing == "on":
                self.networks.unet.enable_gradient_checkpointing()
            run = self.open(runs, key, inputs, injected)
            outcome = train(
                step,
                injected.parameters,
                self.plan(run, injected),
                Checkpoints(run.checkpoints, key),
                run.journal,
                self.watcher,
                self.processes,
            )
            return self.finish(run, injected, outcome, step.weights)

    def build_step(self) -> SubjectStep:
        """Encode the pictures and prompts once."""
        chosen, pictures = self.chosen, self.pictures
        live = chosen.text_encoder
        if chosen.prior_weight > 0 and not pictures.priors:
            log.warning("there are no prior pictures, so the class itself may drift towards the subject")

        def pool(samples: tuple, masks: bool) -> Pool:
            return build_pool(self.networks, samples, chosen.resolution, self.watcher, masks, live)

        references = pool(pictures.references, chosen.background_weight < 1)
        priors = pool(pictures.priors, False) if pictures.priors and chosen.prior_weight > 0 else None
        return SubjectStep(self.networks, references, priors, chosen)

    def inject(self, start_from: Adapter | None) -> Injected:
        chosen = self.chosen
        sets = {chosen.parameter_set: (chosen.rank, chosen.alpha)}
        if chosen.text_encoder:
            sets["text"] = (chosen.rank, chosen.alpha)
        return inject(self.networks, sets, chosen.seed, start_from)

    def open(self, runs: Path, key: str, inputs: Mapping[str, Any], injected: Injected) -> Run:
        """The run's folder; the main process makes it, and all of them see it."""
        if self.processes.main:
            trained = sum(p.numel() for p in injected.parameters.values())
            states = 3 * 3 * 4 * trained  # weights and two moments, fp32, in up to three files at a time
            run = open_run(runs, self.name, key, inputs, states)
            newest = Checkpoints(run.checkpoints, key).latest()
            run.journal.cut(newest.step if newest else 0)
        self.processes.wait()
        found = find_run(runs, key)
        if found is None:
            raise FewShotError(f"the run's folder under {runs} is not seen by all processes. Use a shared folder.")
        return found

    def plan(self, run: Run, injected: Injected) -> Plan:
        chosen = self.chosen
        visits = []
        if chosen.preview_every and self.processes.main:
            visits.append((chosen.preview_every, lambda step: self.preview(run, step)))
        return Plan(
            steps=chosen.steps,
            rates=Rates(
                {"unet": chosen.learning_rate, "text_encoder": chosen.text_learning_rate},
                chosen.steps,
                round(chosen.warmup * chosen.steps),
                chosen.schedule,
            ),
            weight_decay=chosen.weight_decay,
            max_gradient_norm=chosen.max_gradient_norm,
            save_every=chosen.save_every,
            log_every=chosen.log_every,
            scale_losses=self.networks.dtype == torch.float16 and self.networks.device.type == "cuda",
            visits=visits,
            cut=lambda step: self.keep_part(run, injected, step),
        )

    def preview(self, run: Run, step: int) -> None:
        """Sample with the adapter as it is; a preview that fails is named in the log and harms nothing."""
        prompt = self.chosen.preview_prompt or f"a photo of {self.pictures.trigger}"
        side = self.chosen.resolution
        try:
            pixels = sample(
                self.networks, [prompt], [PREVIEW_SEED], width=side, height=side, steps=PREVIEW_STEPS, watcher=Silent()
            )
            picture = Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy().astype(np.uint8))
            picture.save(make_folder(run.samples) / f"step_{step:08d}.png")
        except Exception as error:  # noqa: BLE001  # whatever it is, training is worth more than its preview
            log.warning("no preview at step %d: %s", step, error)
            return
        self.watcher.progress(step, self.chosen.steps, f"preview at step {step}", picture=picture)

    def extract(self, injected: Injected) -> Adapter:
        return injected.extract(self.pictures.trigger, describe(self.chosen, self.pictures))

    def keep_part(self, run: Run, injected: Injected, step: int) -> None:
        """The LoRA of a run that was cut, beside its state; it takes the place of an earlier part."""
        path = run.folder / f"{self.name}_step_{step:08d}.safetensors"
        earlier = [p for p in run.folder.glob("*_step_*.safetensors") if p != path]
        if not path.exists():
            write_lora(self.extract(injected), path)
        for old in earlier:
            old.unlink()
        log.info("training was cut after step %d; the LoRA so far is %s", step, path)

    def finish(self, run: Run, injected: Injected, outcome: Outcome, weights: Mapping[str, float]) -> TrainingResult:
        adapter = self.extract(injected)
        columns = zip(*outcome.terms.values())
        losses = tuple(sum(w * v for w, v in zip(weights.values(), values)) for values in columns)
        result = dict(losses=losses, terms=dict(outcome.terms), seconds=outcome.seconds)
        if self.processes.main:
            path = run.folder / f"{self.name}.safetensors"
            if not path.exists():
                write_lora(adapter, path)
            run.finish(adapter, result)
            for part in run.folder.glob("*_step_*.safetensors"):
                part.unlink()
        return TrainingResult(adapter, losses, outcome.terms, run.folder, outcome.resumed_from, outcome.seconds)


def describe(chosen: SubjectSettings, pictures: TrainingSet) -> dict[str, str]:
    """What a LoRA's metadata says of its training, in the names that other tools read; no file names, no captions."""
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
        "ss_network_dim": chosen.rank,
        "ss_network_alpha": chosen.alpha,
        "ss_seed": chosen.seed,
        "ss_resolution": f"({chosen.resolution}, {chosen.resolution})",
        "ss_min_snr_gamma": chosen.min_snr_gamma or None,
        "ss_noise_offset": chosen.noise_offset or None,
        "ss_prior_loss_weight": chosen.prior_weight,
        "ss_batch_size_per_device": chosen.batch_size,
        "ss_num_train_images": len(pictures.references),
        "ss_num_reg_images": len(pictures.priors),
    }
    said = {name: str(value) for name, value in values.items()}
    return said | {"fewshot_settings": json.dumps({REFERENCE: 1.0, PRIOR: chosen.prior_weight})}
