"""Rows against kvablack/ddpo-pytorch: what it spends to earn what it earns, and how fast equal work is done.

Both sides learn the same prompts by the same reward, CLIP-T contrast, from the same start; their held-out rewards are
read from the same noise by the same sampler. Readings count neither as evaluations nor as time.
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
from ...core.progress import Silent
from ...core.randomness import Randomness
from ...core.values import content_key
from ...models.adapters.inject import inject
from ...models.contract import Networks
from ...models.open import open_base
from ...trainers.auto.inputs import gather_auto_inputs
from ...trainers.auto.rules import resolve
from ...trainers.distributed import SingleProcess
from ...trainers.refine.guards import Floors, Readings
from ...trainers.refine.method import Refinement, split
from ...trainers.refine.readings import Reader
from ...trainers.refine.rollout import Painter
from ...trainers.refine.sampler_policy import DdimPolicy
from ...trainers.refine.settings import DDPO, RefinementSettings
from .. import Row
from ..harness.parallel import each
from ..subject.lessons import Run
from ..subject.sets import references
from .costs import samples
from .curves import first_at, rises_to_the_end, times
from .ddpo_reference import Ddpo, DdpoSettings
from .prompts import prompts
from .rows import NEVER, lower, measured

if TYPE_CHECKING:
    from .bench import Bench

log = logging.getLogger(__name__)


def baseline(bench: Bench) -> list[Row]:
    """Evaluations to reach the best that it reaches at the best of its learning rates, and samples a second."""
    run = bench.subjects.table_runs[0]
    bench.trained(run)
    calls: list[Callable[[], dict[float, float]]] = [partial(theirs, bench, run, rate) for rate in bench.size.rates]
    *curves, ours = each(_called, [*calls, partial(bench.rewarded, run)])
    rate, best = max(zip(bench.size.rates, curves, strict=True), key=lambda one: max(one[1].values()))
    wanted = max(best.values())
    mine, its = first_at(ours, wanted), first_at(best, wanted)
    notes = [f"one subject and seed; its best learning rate is {rate:g}"]
    if its is None:
        notes.append(f"it gained nothing with any rate, so there is nothing to reach (ours {max(ours.values()):.2f})")
    elif mine is None:
        notes.append(f"its gain of {wanted:.2f} deviations was not reached (best {max(ours.values()):.2f})")
    if rises_to_the_end(best):
        notes.append("it still rose at its last reading: its plateau lies higher")
    value = NEVER if mine is None or its is None else mine / its
    cost = lower(measured("ddpo_baseline.evaluations_ratio", [value], "ratio", bench.goal(0.5), "; ".join(notes)))
    note = f"{bench.size.pace_steps} sampling steps, all trained, on both sides, taken in turn"
    return [cost, measured("ddpo_baseline.speed_ratio", pace(bench, run), "ratio", bench.goal(1.5), note)]


def _called(call: Callable[[], dict[float, float]]) -> dict[float, float]:
    return call()


# ---------------------------------------------------------------------------------------------------------- rewards


def theirs(bench: Bench, run: Run, rate: float) -> dict[float, float]:
    """The held-out reward's gain by evaluations; kept on disk when it is whole."""
    settings = DdpoSettings(learning_rate=rate)
    if bench.size.settings:  # a quick one
        settings = replace(settings, sampling_steps=4, sample_batch=2, batches=2, train_batch=2, guidance=1.0)
    asked, reward = prompts(run.noun, bench.size.activities, bench.size.judged), bench.reward(run, likeness=False)
    reading = bench.settings(bench.size.reward_budget, patience=0)
    start = bench.start(run)
    key = content_key(start.key, asked.key, reward.key, reading.key(), list(astuple(settings)), bench.size.epochs)
    file = bench.shop.folder / "ddpo" / f"{key[:24]}.json"
    if not file.is_file():
        with opened(bench, run, reading) as (networks, chosen):
            injected = inject(networks, {"attention": (settings.rank, float(settings.rank))}, run.seed, beneath=start)
            learned, held_out = split(asked)
            judge = reward.open(networks.device, [load_picture(picture) for picture in reward.references], learned)
            ddpo = Ddpo(networks, injected, learned, judge, settings, chosen.resolution, run.seed)
            read = reader(bench, run, ddpo.painter, judge, held_out, chosen)
            curve = _watched(ddpo, read, bench.size.epochs)
            injected.remove()
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(curve).encode())
    curve = {float(epoch): gain for epoch, gain in json.loads(file.read_text(encoding="utf-8")).items()}
    return times(curve, settings.evaluations)


def _watched(ddpo: Ddpo, read: Reader, epochs: int) -> dict[int, float]:
    """The gain after each epoch, in deviations of the start's pictures."""
    first, spreads = read(0)
    readings = Readings((first,), (1.0,), spreads, Floors())
    curve = {0: 0.0}
    for epoch in range(1, epochs + 1):
        reward = ddpo.epoch()
        curve[epoch] = readings.gain(read(epoch)[0])
        log.info("baseline at %g, epoch %d: %.4f, gain %.2f", ddpo.settings.learning_rate, epoch, reward, curve[epoch])
    return curve


def reader(bench: Bench, run: Run, painter: Painter, judge, held_out, chosen: RefinementSettings) -> Reader:
    """The readings of ours: the same prompts, noise and sampler."""
    policy = DdimPolicy(painter.networks.schedule, chosen.sampling_steps, chosen.eta, chosen.skip_last)
    random = Randomness(run.seed, painter.networks.device)
    asked = held_out[: chosen.guard_prompts]
    watching = Painter(painter.networks, asked, policy, chosen.guidance, chosen.resolution, 16, random, Silent())
    folder = bench.shop.folder / "ddpo" / f"{run.subject}_{run.seed}"
    return Reader(watching, judge, asked, chosen, Silent(), None, (), (), folder)


@contextmanager
def opened(bench: Bench, run: Run, settings: RefinementSettings) -> Iterator[tuple[Networks, RefinementSettings]]:
    """The base, and the settings with a number for all that is left open."""
    pictures = references(bench.shop.sets, run.subject)
    with open_base(bench.shop.base, bench.shop.device) as networks:
        chosen, _ = resolve(settings, gather_auto_inputs(networks, pictures, settings))
        assert isinstance(chosen, RefinementSettings)
        yield networks, chosen


# ------------------------------------------------------------------------------------------------------------ speed


def pace(bench: Bench, run: Run) -> list[float]:
    """Our samples a second over theirs in pairs of rounds, by one process, in turn: the same sampling steps, trained
    steps, guidance and algorithm, so that only the code differs."""
    steps, start, reward = bench.size.pace_steps, bench.start(run), bench.reward(run, likeness=False)
    asked = prompts(run.noun, bench.size.activities, bench.size.judged)
    wanted = bench.settings(
        bench.size.budget, method=DDPO, updates=1, sampling_steps=steps, trained_steps=steps, skip_last=0
    )
    settings = DdpoSettings(sampling_steps=steps, guidance=wanted.guidance)
    with opened(bench, run, wanted) as (networks, chosen), opened(bench, run, wanted) as (others, _):
        step, injected = Refinement(start, *split(asked), reward).prepare(
            networks, references(bench.shop.sets, run.subject), replace(chosen, seed=run.seed), None, Silent()
        )
        beside = inject(others, {"attention": (chosen.rank, float(chosen.rank))}, run.seed, beneath=start)
        ddpo = Ddpo(others, beside, split(asked)[0], step.judge, settings, chosen.resolution, run.seed)
        optimizer = torch.optim.AdamW(list(injected.parameters.values()), lr=chosen.learning_rate)

        def ours(number: int) -> None:
            for terms in step.passes(number, SingleProcess().shard):
                torch.stack([step.weights[name] * value for name, value in terms.items()]).sum().backward()
            torch.nn.utils.clip_grad_norm_(list(injected.parameters.values()), chosen.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()

        ratios = []
        for number in range(bench.size.pace_rounds):
            spent = [_seconds(call) for call in (partial(ours, number), ddpo.epoch)]
            ratios.append((samples(chosen) / spent[0]) / (settings.samples / spent[1]))
        beside.remove()
        injected.remove()
    return ratios


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
