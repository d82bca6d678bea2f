"""Validation in the loop: the best weights come back, a run ends early, and a cut one decides as the uncut one."""

import math

import pytest
import torch
from torch.nn import Parameter

from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.loop import Diverged, Plan, train
from comfyui_fewshot.trainers.optim.optimizers import LearningRates
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.state.run_folder import Journal
from comfyui_fewshot.trainers.validation.schedule import ValidatedCheckpoint

STEPS = 12
KNEE = {0: (0.5, 0.30), 3: (0.6, 0.30), 6: (0.8, 0.29), 9: (0.85, 0.22), 12: (0.9, 0.21)}  # step 6 is the best


class Pull:
    """Pulls `unet.x` to seeded targets."""

    def __init__(self, x, broken=None):
        self.x, self.broken, self.random = x, broken, Randomness(1)
        self.weights = {"near": 1.0}

    def passes(self, step, share):
        (target,) = self.random.normal("target", step, [0], (3,))
        loss = (self.x - target).square().mean()
        yield {"near": loss * math.nan if step == self.broken else loss}


class Table:
    """Measures what a table says; raises at the `fails`-th call."""

    def __init__(self, points, fails=None, error=KeyboardInterrupt):
        self.points, self.fails, self.error, self.seen = points, fails, error, []

    def __call__(self, step):
        self.seen.append(step)
        if len(self.seen) == self.fails:
            raise self.error("stop")
        return (*self.points[step], 0.2)


def run(folder, measure, every=3, patience=0, save_every=5, broken=None, steps=STEPS, processes=None):
    folder.mkdir(exist_ok=True)
    x = Parameter(torch.tensor([1.0, -2.0, 3.0]))
    cuts = []
    best_checkpoint = ValidatedCheckpoint(measure, every, steps, patience, likeness=0.9) if measure else None
    plan = Plan(
        steps,
        LearningRates({"unet": 0.1}, steps),
        save_every=save_every,
        log_every=4,
        cut=cuts.append,
        best_checkpoint=best_checkpoint,
    )
    store = Checkpoints(folder / "c", "key")
    try:
        context = TrainingContext(folder, "cpu", processes=processes or SingleProcess())
        outcome = train(Pull(x, broken), {"unet.x": x}, plan, store, Journal(folder / "log.jsonl"), context)
    except (KeyboardInterrupt, RuntimeError):
        return None, cuts, best_checkpoint
    return (x.detach().clone(), outcome), cuts, best_checkpoint


def test_the_best_weights_come_back(tmp_path):
    (x, outcome), cuts, best_checkpoint = run(tmp_path / "a", Table(KNEE))
    (until_best, _), _, _ = run(tmp_path / "b", None, steps=6)
    assert outcome.chosen == 6 and torch.equal(x, until_best)
    assert len(outcome.terms["near"]) == STEPS and cuts == []
    assert [point.step for point in best_checkpoint.curve.points] == [0, 3, 6, 9, 12]


def test_training_is_the_same_with_and_without_validation(tmp_path):
    (_, with_), _, _ = run(tmp_path / "a", Table(KNEE))
    (_, without), _, _ = run(tmp_path / "b", None)
    assert with_.terms == without.terms and without.chosen == STEPS


def test_patience_ends_the_training(tmp_path):
    (x, outcome), cuts, _ = run(tmp_path / "a", Table(KNEE), patience=1)
    assert outcome.chosen == 6 and len(outcome.terms["near"]) == 9 and cuts == []
    (whole, _), _, _ = run(tmp_path / "b", Table(KNEE))
    assert torch.equal(x, whole)


def test_without_a_gain_the_last_step_is_returned(tmp_path, caplog):
    flat = dict.fromkeys(KNEE, (0.5, 0.3))
    (x, outcome), _, _ = run(tmp_path / "a", Table(flat), patience=1)
    (last, _), _, _ = run(tmp_path / "b", None)
    assert outcome.chosen == STEPS and torch.equal(x, last)
    assert "no validation saw a gain" in caplog.text


@pytest.mark.parametrize("patience", [0, 1])
@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_run_cut_in_a_validation_ends_as_the_uncut_one(tmp_path, fails, patience):
    (x, outcome), _, best_checkpoint = run(tmp_path / "whole", Table(KNEE), patience=patience)
    cut, cuts, _ = run(tmp_path / "cut", Table(KNEE, fails), patience=patience)
    at = 3 * (fails - 1)
    assert cut is None and cuts == ([at] if at else [])
    measure = Table(KNEE)
    (again, resumed), _, other = run(tmp_path / "cut", measure, patience=patience)
    assert torch.equal(x, again) and other.curve == best_checkpoint.curve
    assert (resumed.chosen, resumed.terms) == (outcome.chosen, outcome.terms)
    assert resumed.resumed_from == at and measure.seen[0] == at  # what was not seen is, and nothing twice


def test_a_run_that_ended_early_stays_ended(tmp_path):
    """Killed between its last step and its result."""
    (x, _), _, _ = run(tmp_path, Table(KNEE), patience=1)
    measure = Table(KNEE)
    (again, outcome), _, _ = run(tmp_path, measure, patience=1)
    assert measure.seen == [] and outcome.resumed_from == 9 and torch.equal(again, x)


def test_a_failed_validation_does_not_count(tmp_path):
    (_, outcome), _, _ = run(tmp_path, Table(KNEE | {6: (math.nan, math.nan)}))
    assert outcome.chosen == 3  # the second best: 2 * 0.25 * 1 / 1.25 over 2 * 0.875 * 0.2 / 1.075


def test_divergence_is_seen_before_a_validation_could_choose_it(tmp_path):
    measure = Table(KNEE)
    with pytest.raises(Diverged):
        run(tmp_path, measure, broken=5)
    assert measure.seen == [0, 3]


class Second(SingleProcess):
    """The second of two processes: what the first one saw comes by adding up."""

    main = False

    def __init__(self, points):
        self.points, self.step = points, 0

    def all_reduce(self, buffer):
        if len(buffer) == 3 and not buffer.any():
            buffer += torch.tensor((*self.points[self.step], 0.2))
            self.step += 3


def test_another_process_chooses_the_same_without_looking(tmp_path):
    (x, _), _, _ = run(tmp_path / "a", Table(KNEE), patience=1)

    def never(step):
        raise AssertionError("only the main process looks")

    (other, outcome), _, _ = run(tmp_path / "b", never, patience=1, processes=Second(KNEE))
    assert outcome.chosen == 6 and torch.equal(x, other)
