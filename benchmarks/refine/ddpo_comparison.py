"""Rows against kvablack/ddpo-pytorch: evaluations to reach its gain, and samples a second for equal work.

Both sides train on the same prompts with the same reward, CLIP-T contrast, from the same start; their held-out rewards
are measured with the same noise by the same sampler. Readings count neither as evaluations nor as time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from ...augmentation.images.load import load_picture
from ...core.atomic import write_whole
from ...core.progress import NullProgress
from ...core.values import content_key
from ...models.adapters.inject import inject
from ...models.contract import DiffusionModel
from ...models.open import open_base
from ...trainers.auto.inputs import gather_auto_inputs
from ...trainers.auto.rules import resolve
from ...trainers.distributed import SingleProcess
from ...trainers.refine.guards import Floors, Readings
from ...trainers.refine.method import Refinement, split
from ...trainers.refine.methods.table import DDPO
from ...trainers.refine.readings import HeldOut, Reader
from ...trainers.refine.rollout import RolloutOptions, RolloutSampler
from ...trainers.refine.sampler_policy import SamplerPolicy
from ...trainers.refine.settings import RefinementSettings
from ..harness.parallel import each
from ..harness.rows import BenchmarkRow
from ..subject.sets import references
from ..subject.training_cases import SubjectRun
from .costs import samples
from .curves import rises_at_the_end, scale_steps, steps_to_reach
from .ddpo_reference import DdpoSettings, DdpoTrainer, RewardTask
from .prompts import prompts
from .rows import NEVER, lower_is_better, mean_row

if TYPE_CHECKING:
    from .bench import RefinementBenchmark

log = logging.getLogger(__name__)


def ddpo_rows(bench: RefinementBenchmark) -> list[BenchmarkRow]:
    """Our evaluations over DDPO's to reach its best gain at its best learning rate, and samples a second."""
    run = bench.subjects.table_runs[0]
    bench.train_start(run)
    calls: list[Callable[[], dict[float, float]]] = [
        partial(ddpo_curve, bench, run, rate) for rate in bench.size.ddpo.learning_rates
    ]
    *curves, our_curve = each(_call, [*calls, partial(bench.reward_curve, run)])
    rate, best = max(zip(bench.size.ddpo.learning_rates, curves, strict=True), key=lambda one: max(one[1].values()))
    wanted = max(best.values())
    our_cost, ddpo_cost = steps_to_reach(our_curve, wanted), steps_to_reach(best, wanted)
    our_best = max(our_curve.values())
    notes = [f"one subject and seed; its best learning rate is {rate:g}"]
    if ddpo_cost is None:
        notes.append(f"it gained nothing with any rate, so there is nothing to reach (ours {our_best:.2f})")
    elif our_cost is None:
        notes.append(f"its gain of {wanted:.2f} deviations was not reached (best {our_best:.2f})")
    if rises_at_the_end(best):
        notes.append("it still rose at its last reading: its plateau lies higher")
    value = NEVER if our_cost is None or ddpo_cost is None else our_cost / ddpo_cost
    row = mean_row("ddpo_baseline.evaluations_ratio", [value], "ratio", bench.goal(0.5), "; ".join(notes))
    note = f"{bench.size.ddpo.speed_steps} sampling steps, all trained, on both sides, taken in turn"
    return [
        lower_is_better(row),
        mean_row("ddpo_baseline.speed_ratio", speed_ratios(bench, run), "ratio", bench.goal(1.5), note),
    ]


def _call(call: Callable[[], dict[float, float]]) -> dict[float, float]:
    return call()


# ---------------------------------------------------------------------------------------------------------- rewards


def ddpo_curve(bench: RefinementBenchmark, run: SubjectRun, rate: float) -> dict[float, float]:
    """The held-out reward's gain of DDPO by evaluations; saved on disk when it is complete."""
    settings = DdpoSettings(learning_rate=rate)
    if bench.size.settings:  # a quick one
        settings = replace(settings, sampling_steps=4, sample_batch=2, batches=2, train_batch=2, guidance=1.0)
    prompt_set, reward = prompts(run.noun, bench.size.activities, bench.size.judged), bench.reward(run, likeness=False)
    reading = bench.settings(bench.size.budgets.reward, patience=0)
    start = bench.start(run)
    key = content_key(
        start.key, prompt_set.key, reward.key, reading.key(), list(astuple(settings)), bench.size.ddpo.epochs
    )
    file = bench.shop.folder / "ddpo" / f"{key[:24]}.json"
    if not file.is_file():
        with open_resolved(bench, run, reading) as (model, chosen):
            injected = inject(model, {"attention": (settings.rank, float(settings.rank))}, run.seed, beneath=start)
            training, held_out = split(prompt_set)
            reference_images = [load_picture(picture) for picture in reward.references]
            reward_models = reward.open(model.device, reference_images, training)
            task = RewardTask(training, reward_models)
            ddpo = DdpoTrainer(model, injected, task, settings, chosen.resolution, run.seed)
            read = held_out_reader(bench, run, ddpo.sampler, reward_models, held_out, chosen)
            curve = _train_and_read(ddpo, read, bench.size.ddpo.epochs)
            injected.remove()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(curve).encode())
    curve = {float(epoch): gain for epoch, gain in json.loads(file.read_text(encoding="utf-8")).items()}
    return scale_steps(curve, settings.evaluations)


def _train_and_read(ddpo: DdpoTrainer, read: Reader, epochs: int) -> dict[int, float]:
    """The gain after each epoch, in deviations of the start's pictures."""
    readings = Readings((read(0),), (1.0,), tuple(read.groups), Floors())
    curve = {0: 0.0}
    for epoch in range(1, epochs + 1):
        reward = ddpo.epoch()
        curve[epoch] = readings.gain(read(epoch)).mean
        log.info("baseline at %g, epoch %d: %.4f, gain %.2f", ddpo.settings.learning_rate, epoch, reward, curve[epoch])
    return curve


def held_out_reader(
    bench: RefinementBenchmark,
    run: SubjectRun,
    sampler: RolloutSampler,
    reward_models,
    held_out,
    chosen: RefinementSettings,
) -> Reader:
    """Reads the held-out reward as our method does: the same prompts, noise and sampler."""
    policy = SamplerPolicy(sampler.model.process, chosen.sampling_steps, sampler.size, chosen.eta, chosen.skip_last)
    guard_prompts = held_out[: chosen.guard_prompts]
    options = RolloutOptions(chosen.guidance, chosen.resolution, rows=16, seed=run.seed)
    held_out_painter = RolloutSampler(sampler.model, guard_prompts, policy, options, NullProgress())
    folder = bench.shop.folder / "ddpo" / f"{run.subject}_{run.seed}"
    return Reader(held_out_painter, reward_models, HeldOut(guard_prompts), chosen, None, folder)


@contextmanager
def open_resolved(
    bench: RefinementBenchmark, run: SubjectRun, settings: RefinementSettings
) -> Iterator[tuple[DiffusionModel, RefinementSettings]]:
    """The base, and the settings with every automatic value resolved."""
    pictures = references(bench.shop.sets, run.subject)
    with open_base(bench.shop.base, bench.shop.device) as model:
        chosen, _ = resolve(settings, gather_auto_inputs(model, pictures, settings))
        yield model, chosen


# ------------------------------------------------------------------------------------------------------------ speed


def speed_ratios(bench: RefinementBenchmark, run: SubjectRun) -> list[float]:
    """Our samples a second over theirs in pairs of rounds, by one process, in turn: the same sampling steps, trained
    steps, guidance and algorithm, so that only the code differs."""
    steps, start, reward = bench.size.ddpo.speed_steps, bench.start(run), bench.reward(run, likeness=False)
    prompt_set = prompts(run.noun, bench.size.activities, bench.size.judged)
    wanted = bench.settings(
        bench.size.budgets.headline, method=DDPO, updates=1, sampling_steps=steps, trained_steps=steps, skip_last=0
    )
    settings = DdpoSettings(sampling_steps=steps, guidance=wanted.guidance)
    with open_resolved(bench, run, wanted) as (model, chosen), open_resolved(bench, run, wanted) as (others, _):
        step, injected = Refinement(start, *split(prompt_set), reward).prepare(
            model, references(bench.shop.sets, run.subject), replace(chosen, seed=run.seed), None, NullProgress()
        )
        ddpo_injected = inject(others, {"attention": (chosen.rank, float(chosen.rank))}, run.seed, beneath=start)
        task = RewardTask(split(prompt_set)[0], step.reward_models)
        ddpo = DdpoTrainer(others, ddpo_injected, task, settings, chosen.resolution, run.seed)
        optimizer = torch.optim.AdamW(list(injected.parameters.values()), lr=chosen.learning_rate)

        def our_round(number: int) -> None:
            for terms in step.passes(number, SingleProcess().shard):
                torch.stack([step.weights[name] * value for name, value in terms.items()]).sum().backward()
            torch.nn.utils.clip_grad_norm_(list(injected.parameters.values()), chosen.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()

        ratios = []
        for number in range(bench.size.ddpo.speed_rounds):
            seconds = [_seconds(call) for call in (partial(our_round, number), ddpo.epoch)]
            ratios.append((samples(chosen) / seconds[0]) / (settings.samples / seconds[1]))
        ddpo_injected.remove()
        injected.remove()
    return ratios


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
