"""A dry run: what a training would do with these pictures on this machine, before it begins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...augmentation.captions.identifiers import find_word
from ...core.errors import FewShotError
from ...core.progress import Silent, Watcher
from ...core.settings import SubjectSettings
from ...core.values import Adapter, BaseModelRef, Sample, TrainingSet
from ...models.adapters.learned_tokens import WordSpec
from ...models.contract import DiffusionModel
from ...models.offload import Resting
from ...models.open import autoencoder_dtype, compute_dtype
from ..auto.fit import CONTEXT, free_memory, trained_bytes
from ..auto.inspect import gather_facts, waiting_parts
from ..auto.rules import Facts, resolve, rows_of, split_of
from ..data.caption_check import with_identifiers
from ..data.sampling_weights import drawing_weights
from ..open import complete, opened
from ..optim.optimizers import make_optimizer
from ..run import rates_of
from ..subject.attention_supervision import check_usable, usable
from ..subject.method import SubjectTraining
from ..targets import words_of
from ..validation.image_metrics import STEPS, Validator, interval
from .forecast import CARDS, Card, Phases, Weights, host_memory, on_card, phases, placed

TIMED = 5
FEW = 4  # pictures of each kind that steps are timed with


@dataclass(frozen=True)
class Fitted:
    """One reference: its size, how often it is enlarged (above 1), tokens of its caption, and times it is drawn."""

    sample: Sample
    scale: float
    tokens: int
    seen: float


@dataclass(frozen=True)
class Timing:
    """Seconds a step, measured; on a GPU the most bytes that were in use."""

    seconds: float
    steps: int
    peak: int | None


@dataclass(frozen=True)
class TrainingPlan:
    """What `plan_training` found. `room` is how many tokens of a caption are read."""

    chosen: SubjectSettings
    reasons: tuple[str, ...]
    references: tuple[Fitted, ...]
    priors: int
    prior_seen: float
    room: int
    trained: int
    gpu: Phases | None
    host: float
    cards: tuple[Card, ...]
    timing: Timing | None
    validations: int
    device: str

    @property
    def seconds(self) -> float | None:
        """Of the whole training, validations included; None where no step was timed."""
        if self.timing is None:
            return None
        rows = rows_of(self.chosen, self.priors)
        drawing = self.validations * self.chosen.validation_pictures * STEPS * 2
        return self.timing.seconds * (self.chosen.steps + drawing / (3 * rows))


def plan_training(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    device: torch.device | str,
    watcher: Watcher | None = None,
    tokenizer_folder: Path | None = None,
    validator: Validator | None = None,
    timed: int = TIMED,
    start_from: Adapter | None = None,
) -> TrainingPlan:
    """Look at everything that training looks at, and take `timed` steps whose result is thrown away.

    With `timed` 0 only the weights' shapes are read: no memory is taken, on the device or off it. The steps go on from
    `start_from`, where it is given.

    Raises:
        FewShotError: what would stop the training before its first step.
    """
    if not pictures.references:
        raise FewShotError("there are no reference pictures to plan for. Give at least one, better three to ten.")
    watcher, device = watcher or Silent(), torch.device(device)
    with torch.inference_mode(False), torch.enable_grad():
        where = device if timed else torch.device("meta")
        with opened(base, where, watcher, tokenizer_folder) as networks:
            weights = _weights(networks)
            judges = validator.resident if validator is not None and settings.validate_every != 0 else None
            facts = _facts(networks, pictures, settings, device, weights, judges)
            chosen, reasons = resolve(settings, facts)
            references = _fitted(networks, pictures, chosen, watcher)
            if chosen.local_weight > 0:
                told = [with_identifiers(sample, pictures.concepts) for sample in pictures.references]
                check_usable(networks, told, pictures.concepts, chosen.local_attention == "content")
            timing = time_steps(networks, pictures, chosen, watcher, timed, start_from) if timed else None
            room = networks.text_encoders[0].config.max_position_embeddings - 2
    asked = replace(chosen, **{name: getattr(settings, name) for name in LEFT_TO_MEMORY})
    cards = tuple(on_card(asked, facts, weights, size * 1e9) for size in CARDS)
    split, on_gpu = split_of(chosen, facts), device.type == "cuda"
    taken, needed = trained_bytes(facts.trained, chosen.optimizer), phases(chosen, split, facts, weights)
    drawn = chosen.steps * chosen.batch_size
    validated = validator is not None and settings.validate_every != 0
    every = interval(chosen, rows_of(chosen, facts.priors)) if validated else 0
    return TrainingPlan(
        chosen=chosen,
        reasons=reasons,
        references=references,
        priors=facts.priors,
        prior_seen=drawn / facts.priors if facts.priors and chosen.prior_weight else 0.0,
        room=room,
        trained=facts.trained,
        gpu=needed if on_gpu else None,
        host=host_memory(needed, split, taken, facts, on_gpu, validator.bytes if validator else 0),
        cards=cards,
        timing=timing,
        validations=1 + -(-chosen.steps // every) if every else 0,
        device=device.type,
    )


LEFT_TO_MEMORY = ("micro_batch", "gradient_checkpointing", "offload", "weights")
"""The settings that `auto` chooses by the memory of a device"""


def _facts(
    networks: DiffusionModel,
    pictures: TrainingSet,
    settings: SubjectSettings,
    device: torch.device,
    weights: Weights,
    judges: float | None,
) -> Facts:
    """What `auto` depends on, as if the networks were open on `device` where only their shapes were read."""
    facts = gather_facts(networks, pictures, settings, judges)
    if networks.device == device:
        return facts
    dtype = compute_dtype(networks.ref.dtype, device)
    wide = autoencoder_dtype(networks.autoencoder.config, dtype)
    return placed(facts, weights, dtype.itemsize, wide.itemsize, settings.reads_text, free_memory(device))


def _weights(networks: DiffusionModel) -> Weights:
    def count(*parts: torch.nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    return Weights(count(networks.denoiser), count(networks.autoencoder), count(*networks.text_encoders))


def _fitted(
    networks: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings, watcher: Watcher
) -> tuple[Fitted, ...]:
    weights = drawing_weights(pictures.references, chosen.composite_share)
    drawn = chosen.steps * chosen.batch_size / sum(weights)
    words, side = words_of(chosen, pictures), chosen.resolution
    rows = []
    for sample, weight in zip(pictures.references, weights, strict=True):
        watcher.check()
        scale = max(side / sample.image.width, side / sample.image.height)
        tokens = _tokens(networks.tokenizers[0], sample.caption, words)
        rows.append(Fitted(sample, scale, tokens, drawn * weight))
    return tuple(rows)


def _tokens(tokenizer: Any, caption: str, words: Sequence[WordSpec]) -> int:
    """How many tokens a caption has; a learned word has as many as it has vectors."""
    count = len(tokenizer(caption, add_special_tokens=False).input_ids)
    for one in words:
        if find_word(one.word, caption):
            count += one.vectors - len(tokenizer(one.word, add_special_tokens=False).input_ids)
    return count


def few_of(networks: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings) -> TrainingSet:
    """Some pictures of each kind that stand for all: one of each subject, then the first ones, to `FEW`.

    Where L_local has a weight, the one of a subject is its first that counts for it: of a set in which some do, some
    are then among the few, and the plan is not refused where the training only warns.
    """
    content = chosen.local_attention == "content"

    def counts(sample: Sample) -> bool:
        told = with_identifiers(sample, pictures.concepts)
        return chosen.local_weight == 0 or usable(networks, told, pictures.concepts, content)

    first = []
    for subject in dict.fromkeys(sample.concept for sample in pictures.references):
        own = [sample for sample in pictures.references if sample.concept == subject]
        first.append(next(filter(counts, own), own[0]))
    others = [sample for sample in pictures.references if sample not in first]
    references = (*first, *others[: max(0, FEW - len(first))])
    return pictures.with_samples(references + pictures.priors[:FEW])


def time_steps(
    networks: DiffusionModel,
    pictures: TrainingSet,
    chosen: SubjectSettings,
    watcher: Watcher,
    count: int,
    start_from: Adapter | None = None,
) -> Timing:
    """The median time of `count` steps after one that warms up, with a few of the pictures; nothing is kept.

    Weights are in 8 bits and encoders wait on the host as in the training itself; `networks` stay so.
    """
    few = few_of(networks, pictures, chosen)
    complete(networks, chosen)
    step, injected = SubjectTraining().prepare(networks, few, chosen, start_from, watcher)
    cuda = networks.device.type == "cuda"
    waiting = waiting_parts(networks, step.reads_text) if chosen.offload == "on" else []
    Resting(waiting, networks.device).rest()
    try:
        if chosen.gradient_checkpointing == "on":
            networks.checkpointing(True)
        optimizer = make_optimizer(
            injected.parameters, rates_of(chosen), chosen.weight_decay, chosen.optimizer, injected.rules
        )
        if cuda:
            torch.cuda.reset_peak_memory_stats(networks.device)
        seconds = []
        for number in range(count + 1):
            watcher.check()
            watcher.progress(number, count + 1, f"timing step {number} of {count}" if number else "warming up")
            begun = time.perf_counter()
            for terms in step.passes(number, list):
                sum(step.weights[name] * value for name, value in terms.items()).backward()  # type: ignore[union-attr]
            optimizer.step()
            for parameter in injected.parameters.values():
                parameter.grad = None
            if cuda:
                torch.cuda.synchronize(networks.device)
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated(networks.device) + CONTEXT if cuda else None
        return Timing(statistics.median(seconds[1:]), count, peak)
    finally:
        injected.remove()
