"""A dry run: the settings, time and memory of a training on this machine, before it starts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ...core.errors import FewShotError
from ...core.progress import Progress
from ...core.text.words import find_any
from ...core.values import Adapter, BaseModelRef, Sample, TrainingSet
from ...models.adapters.learned_tokens import TokenSpec
from ...models.contract import DiffusionModel, ParameterCounts
from ...models.offload import Offloaded
from ...models.open import compute_dtype
from ..auto.fit import CONTEXT, free_memory, trained_bytes
from ..auto.inputs import AutoInputs, gather_auto_inputs
from ..auto.rules import resolve, split_of
from ..context import TrainingContext
from ..data.caption_check import with_identifiers
from ..data.sampling_weights import drawing_weights
from ..open import move_to_device, opened
from ..optim.optimizers import make_optimizer
from ..passes import differentiable_passes
from ..run import rates_of
from ..subject.attention_supervision import check_usable, usable
from ..subject.method import SubjectTraining
from ..subject.settings import SubjectSettings
from ..targets import resolve_token, token_specs
from ..validation.image_metrics import STEPS, validation_interval
from .forecast import CARDS, CardFit, Phases, host_memory, on_card, on_device, phases

TIMED = 5
FEW = 4  # images of each kind that steps are timed with


@dataclass(frozen=True)
class PlannedReference:
    """One reference.

    Args:
        scale: by which it is resized; enlarged above 1.
        tokens: of its caption.
        draws: how often training is expected to draw it.
    """

    sample: Sample
    scale: float
    tokens: int
    draws: float


@dataclass(frozen=True)
class Timing:
    """Measured seconds a step, and on a GPU the peak of allocated bytes."""

    seconds: float
    steps: int
    peak: int | None


@dataclass(frozen=True)
class DryRun:
    """The result of `plan_training`; `token_limit` is the number of tokens of a caption that are read."""

    chosen: SubjectSettings
    reasons: tuple[str, ...]
    references: tuple[PlannedReference, ...]
    priors: int
    prior_draws: float
    token_limit: int
    trainable_parameters: int
    gpu: Phases | None
    host: float
    cards: tuple[CardFit, ...]
    timing: Timing | None
    validations: int
    device: str

    @property
    def seconds(self) -> float | None:
        """Of the whole training, validations included; None where no step was timed."""
        if self.timing is None:
            return None
        rows = self.chosen.rows(self.priors)
        drawing = self.validations * self.chosen.validation_pictures * STEPS * 2
        return self.timing.seconds * (self.chosen.steps + drawing / (3 * rows))


def plan_training(
    base: BaseModelRef,
    pictures: TrainingSet,
    settings: SubjectSettings,
    context: TrainingContext,
    start_from: Adapter | None = None,
    timed: int = TIMED,
) -> DryRun:
    """Check everything that training checks, and time `timed` steps whose result is discarded.

    With `timed` 0 only the weights' shapes are read, on the meta device. The steps start from `start_from`, if given.

    Raises:
        FewShotError: what would stop the training before its first step.
    """
    if not pictures.references:
        raise FewShotError("there are no reference pictures to plan for. Give at least one, better three to ten.")
    progress, validator, device = context.progress, context.validator, torch.device(context.device)
    validates = validator is not None and settings.validate_every != 0
    with torch.inference_mode(False), torch.enable_grad():
        where = device if timed else torch.device("meta")
        with opened(base, where, progress, context.tokenizer_folder) as model:
            weights = model.parameter_counts()
            validator_bytes = validator.resident if validator is not None and validates else None
            settled, first = resolve_token(settings, model, pictures, start_from)
            inputs = _auto_inputs(model, pictures, settled, device, weights, validator_bytes)
            chosen, reasons = resolve(settled, inputs)
            reasons = (*first, *reasons)
            references = _planned_references(model, pictures, chosen, progress)
            if chosen.local_weight > 0:
                samples = [with_identifiers(sample, pictures.concepts) for sample in pictures.references]
                check_usable(model, samples, pictures.concepts)
            timing = time_steps(model, pictures, chosen, progress, timed, start_from) if timed else None
            token_limit = model.token_limit - 2
    unresolved = replace(chosen, **{name: getattr(settings, name) for name in MEMORY_SETTINGS})
    split, on_gpu = split_of(chosen, inputs), device.type == "cuda"
    trained = trained_bytes(inputs.trainable_parameters, chosen.optimizer)
    demands = phases(chosen, split, inputs, weights)
    drawn = chosen.steps * chosen.batch_size
    every = validation_interval(chosen, chosen.rows(inputs.priors)) if validates else 0
    return DryRun(
        chosen=chosen,
        reasons=reasons,
        references=references,
        priors=inputs.priors,
        prior_draws=drawn / inputs.priors if inputs.priors and chosen.prior_weight else 0.0,
        token_limit=token_limit,
        trainable_parameters=inputs.trainable_parameters,
        gpu=demands if on_gpu else None,
        host=host_memory(demands, split, trained, inputs, on_gpu, validator.bytes if validator else 0),
        cards=tuple(on_card(unresolved, inputs, weights, size * 1e9) for size in CARDS),
        timing=timing,
        validations=1 + -(-chosen.steps // every) if every else 0,
        device=device.type,
    )


# The settings that `auto` chooses by the memory of a device.
MEMORY_SETTINGS = ("micro_batch", "gradient_checkpointing", "offload", "weights")


def _auto_inputs(
    model: DiffusionModel,
    pictures: TrainingSet,
    settings: SubjectSettings,
    device: torch.device,
    weights: ParameterCounts,
    validator_bytes: float | None,
) -> AutoInputs:
    """What `auto` depends on, as if the model were open on `device` where only their shapes were read."""
    inputs = gather_auto_inputs(model, pictures, settings, validator_bytes)
    if model.device == device:
        return inputs
    dtype = compute_dtype(model.ref.dtype, device)
    vae_dtype = model.autoencoder_dtype(dtype)
    return on_device(inputs, weights, dtype.itemsize, vae_dtype.itemsize, settings.reads_text, free_memory(device))


def _planned_references(
    model: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings, progress: Progress
) -> tuple[PlannedReference, ...]:
    weights = drawing_weights(pictures.references, chosen.composite_share)
    drawn = chosen.steps * chosen.batch_size / sum(weights)
    words, side = token_specs(chosen, pictures), chosen.resolution
    rows = []
    for sample, weight in zip(pictures.references, weights, strict=True):
        progress.check()
        scale = max(side / sample.image.width, side / sample.image.height)
        tokens = _tokens(model, sample.caption, words)
        rows.append(PlannedReference(sample, scale, tokens, drawn * weight))
    return tuple(rows)


def _tokens(model: DiffusionModel, caption: str, words: Sequence[TokenSpec]) -> int:
    """How many tokens a caption has; a learned word has as many as it has vectors."""
    count = model.count_tokens(caption, whole=True)
    vectors = {spec.word: spec.vectors for spec in words}
    for found, word in find_any(vectors, caption):
        count += vectors[word] - model.count_tokens(found.group())
    return count


def timing_subset(model: DiffusionModel, pictures: TrainingSet, chosen: SubjectSettings) -> TrainingSet:
    """A few images of each kind: one of each subject, then the first ones, at most `FEW` references and priors.

    Where L_local has a weight, the first usable image of each subject is taken, so that the plan is not refused where
    the training only warns.
    """

    def is_usable(sample: Sample) -> bool:
        if chosen.local_weight == 0:
            return True
        return usable(model, with_identifiers(sample, pictures.concepts), pictures.concepts)

    first = []
    for subject in dict.fromkeys(sample.concept for sample in pictures.references):
        own = [sample for sample in pictures.references if sample.concept == subject]
        first.append(next(filter(is_usable, own), own[0]))
    others = [sample for sample in pictures.references if sample not in first]
    references = (*first, *others[: max(0, FEW - len(first))])
    return pictures.with_samples(references + pictures.priors[:FEW])


def time_steps(
    model: DiffusionModel,
    pictures: TrainingSet,
    chosen: SubjectSettings,
    progress: Progress,
    count: int,
    start_from: Adapter | None = None,
) -> Timing:
    """The median time of `count` steps after a warm-up step, on a few of the images; what is trained is discarded.

    Float8 weights and offloaded encoders are as in the training itself; `model` stay so.
    """
    subset = timing_subset(model, pictures, chosen)
    move_to_device(model, chosen)
    step, injected = SubjectTraining().prepare(model, subset, chosen, start_from, progress)
    cuda = model.device.type == "cuda"
    offloaded = model.offloadable(step.reads_text) if chosen.offload == "on" else []
    Offloaded(offloaded, model.device).offload()
    try:
        if chosen.gradient_checkpointing == "on":
            model.checkpointing(True)
        optimizer = make_optimizer(
            injected.parameters, rates_of(chosen), chosen.weight_decay, chosen.optimizer, injected.rules
        )
        if cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        seconds = []
        for number in range(count + 1):
            progress.check()
            progress.report(number, count + 1, f"timing step {number} of {count}" if number else "warming up")
            begun = time.perf_counter()
            for terms in differentiable_passes(step.passes(number, list), model.differentiable):
                sum(step.weights[name] * value for name, value in terms.items()).backward()  # type: ignore[union-attr]
            optimizer.step()
            for parameter in injected.parameters.values():
                parameter.grad = None
            if cuda:
                torch.cuda.synchronize(model.device)
            seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated(model.device) + CONTEXT if cuda else None
        return Timing(statistics.median(seconds[1:]), count, peak)
    finally:
        injected.remove()
