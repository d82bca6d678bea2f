"""Every optimiser learns, goes on bit for bit, and is the library's own; words move as they should."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter
from torch.nn.functional import normalize

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.models.adapters.learned_tokens import TokenConstraint
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.loop import Plan, train
from comfyui_fewshot.trainers.optim import optimizers as optimisation
from comfyui_fewshot.trainers.optim.optimizers import OPTIMIZERS, LearningRates, make_optimizer
from comfyui_fewshot.trainers.optim.token_optimizers import RiemannianDescent
from comfyui_fewshot.trainers.settings.common import WARMUP_STABLE_DECAY
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints
from comfyui_fewshot.trainers.state.run_folder import Journal

ON_A_CPU = [kind for kind in OPTIMIZERS if kind != "adamw_8bit"]
RATES = {"adamw": 0.05, "prodigy": 1.0, "schedule_free": 0.1}


class Pull:
    """Pulls weights to a target each, and a word's direction to another, with noise; may stop before a step."""

    weights = {"near": 1.0}

    def __init__(self, parameters, stop=None):
        self.parameters, self.stop, self.random = parameters, stop, Randomness(3)

    def passes(self, step, share):
        if step == self.stop:
            raise KeyboardInterrupt
        noise = self.random.normal("noise", step, [0], (4,))[0]
        total = torch.zeros(())
        for number, parameter in enumerate(self.parameters.values()):
            total = total + (parameter - (number + 1.0) - 0.1 * noise).square().sum()
        yield {"near": total}


def start():
    word = normalize(torch.tensor([[1.0, -0.2, 0.1, 0.3]]), dim=1)
    free = torch.tensor([[0.1, 0.2, 0.0, -0.1]])
    return {
        "unet.x": Parameter(torch.tensor([0.0, -1.0, 0.5, 0.2])),
        "text_encoder.y": Parameter(torch.tensor([0.3, 0.1, 0.0, -1.0])),
        "token.sks.clip_l": Parameter(word),
        "token.zwx.clip_l": Parameter(free),
    }


def run(folder, kind, steps=40, stop=None, visits=(), schedule="constant", cut=None):
    folder.mkdir(exist_ok=True)
    parameters = start()
    rates = {"unet": RATES[kind], "text_encoder": RATES[kind] / (1 if kind == "prodigy" else 2), "token": 0.02}
    rules = {
        "token.sks.clip_l": TokenConstraint(start=parameters["token.sks.clip_l"].detach().clone()),
        "token.zwx.clip_l": TokenConstraint(max_norm=1.5),
    }
    plan = Plan(
        steps, LearningRates(rates, steps, 4, schedule), weight_decay=0.01, optimizer=kind, rules=rules,
        save_every=1000, max_gradient_norm=1e6, visits=visits, cut=cut,
    )  # fmt: skip
    state = Checkpoints(folder / "c", "key")
    train(
        Pull(parameters, stop), parameters, plan, state, Journal(folder / "log.jsonl"), TrainingContext(folder, "cpu")
    )
    return {name: p.detach().clone() for name, p in parameters.items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ON_A_CPU)
@pytest.mark.parametrize("stop", [1, 17])
def test_a_cut_run_ends_as_an_uncut_one(tmp_path, kind, stop):
    schedule = "constant" if kind == "schedule_free" else "cosine"
    whole = run(tmp_path / "whole", kind, schedule=schedule)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", kind, stop=stop, schedule=schedule)
    assert same(run(tmp_path / "cut", kind, schedule=schedule), whole)


@pytest.mark.parametrize("kind", ON_A_CPU)
def test_every_optimiser_learns(tmp_path, kind):
    end = run(tmp_path, kind, steps=300)
    for number, name in enumerate(("unet.x", "text_encoder.y")):
        before = (start()[name] - (number + 1)).norm()
        assert (end[name] - (number + 1)).norm() < 0.2 * before, name


@pytest.mark.parametrize("kind", ON_A_CPU)
def test_looking_on_changes_nothing(tmp_path, kind):
    """Visits see the weights that are to be used, and training goes on from those it had."""
    seen = {}
    plain = run(tmp_path / "a", kind)
    visited = run(tmp_path / "b", kind, visits=[(7, lambda step: seen.update({step: True}))])
    assert set(seen) == {7, 14, 21, 28, 35} and same(plain, visited)


def test_schedule_free_gives_the_average(tmp_path):
    """What is returned and shown is x of the method, the running average of the steps; by the library alone."""
    from schedulefree import AdamWScheduleFree

    mine = Parameter(torch.zeros(3))
    optimizer = make_optimizer({"unet.x": mine}, LearningRates({"unet": 0.1}, 9), 0.0, "schedule_free")
    other = Parameter(torch.zeros(3))
    library = AdamWScheduleFree([other], lr=0.1)
    library.train()
    for step in range(9):
        gradient = torch.tensor([1.0, -1.0, 0.1 * step])
        for parameter in (mine, other):
            parameter.grad = gradient.clone()
        optimizer.step()
        library.step()
    between = mine.detach().clone()
    library.eval()
    with optimizer.ema():
        assert torch.equal(mine, other) and not torch.equal(mine, between)
    assert torch.equal(mine, between)
    optimizer.eval_weights()
    assert torch.equal(mine, other)


def test_prodigy_finds_its_step_for_each_group(tmp_path):
    rules = {f"token.{word}.clip_l": TokenConstraint(max_norm=1.0) for word in ("sks", "zwx")}
    rates = LearningRates({"unet": 1.0, "text_encoder": 0.5, "token": 0.1}, 5)
    optimizer = make_optimizer(start(), rates, 0.0, "prodigy", rules)
    names = [type(part).__name__ for part in optimizer.parts]
    assert names == ["Prodigy", "Prodigy", "BoundedAdamW"]
    assert {"unet/d", "unet/k", "text_encoder/d_max"} <= set(optimizer.scalars())


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(optimisation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FewShotError, match="adamw_8bit needs the package bitsandbytes.*pip install bitsandbytes"):
        make_optimizer({"unet.x": Parameter(torch.zeros(2))}, LearningRates({"unet": 1.0}, 5), 0.0, "adamw_8bit")


def test_eight_bits_want_cuda(monkeypatch):
    monkeypatch.setattr(optimisation.importlib.util, "find_spec", lambda name: True)
    with pytest.raises(FewShotError, match="works on a CUDA device, and this training runs on cpu"):
        make_optimizer({"unet.x": Parameter(torch.zeros(2))}, LearningRates({"unet": 1.0}, 5), 0.0, "adamw_8bit")


def test_warmup_stable_decay_is_constant_and_ends_at_zero():
    rates = LearningRates({"unet": 2.0}, 90, 10, WARMUP_STABLE_DECAY)
    found = [rates.factor(step) for step in range(91)]
    assert found[:10] == [(step + 1) / 10 for step in range(10)] and found[10:60] == [1.0] * 50
    assert found[60:] == pytest.approx([1 - k / 30 for k in range(31)]) and rates.at(75) == {"unet": 1.0}


# ------------------------------------------------------------------------------------------------------------ words


def directions(prior=1e-4, rate=0.01, width=6):
    row = Parameter(normalize(torch.randn(2, width, generator=torch.Generator().manual_seed(0)), dim=1))
    mu = row.detach().clone()
    return row, mu, RiemannianDescent([{"name": "token", "params": [row], "lr": rate}], {id(row): mu}, prior)


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-4, 0.3), st.floats(1e-8, 1e8), st.integers(1, 100))  # 0 drew the rows themselves
def test_directions_stay_on_the_sphere_and_step_by_an_angle(rate, scale, seed):
    row, mu, optimizer = directions(0.0, rate)
    row.grad = scale * torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    assert torch.allclose(row.norm(dim=1), torch.ones(2), atol=1e-6)
    angle = torch.arccos((row * mu).sum(1).clamp(-1, 1).double())
    if scale > 1e-4:  # the first step is as long as the rate, whatever the gradient's length
        assert torch.allclose(torch.tan(angle), torch.full((2,), rate, dtype=torch.float64), rtol=0.05, atol=1e-3)


def test_a_direction_finds_its_target():
    row, _, optimizer = directions(0.0, 0.02)
    target = normalize(torch.tensor([[1.0, 2.0, 0.0, -1.0, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]]), dim=1)
    for _ in range(400):
        row.grad = -target
        optimizer.step()
    assert (row * target).sum(1).min() > math.cos(0.05)


def test_a_direction_keeps_its_step_while_its_gradients_fall():
    """A training's gradients fall tenfold within 150 steps; a step stays about the rate, in radians, all the same."""
    row = Parameter(torch.eye(6)[:1].clone())
    target, rate = torch.eye(6)[1:2], 0.01
    optimizer = RiemannianDescent(
        [{"name": "token", "params": [row], "lr": rate}], {id(row): row.detach().clone()}, 0.0
    )
    angles = [math.pi / 2]
    for step in range(140):
        row.grad = -target * 10 ** (-step / 150)
        optimizer.step()
        angles.append(float(torch.arccos((row.detach() * target).sum().clamp(-1, 1))))
    steps = [before - after for before, after in pairwise(angles)]
    assert min(steps) > 0.7 * rate and max(steps) < 1.1 * rate


def test_a_strong_prior_holds_the_start():
    """kappa to infinity: the gradient is that of the prior alone, which is nothing at the start."""
    row, mu, optimizer = directions(1e12, 0.05)
    for _ in range(50):
        row.grad = torch.randn(row.shape, generator=torch.Generator().manual_seed(1))
        optimizer.step()
    assert (row * mu).sum(1).min() > math.cos(0.2)
    free, other, loose = directions(0.0, 0.05)
    for _ in range(50):
        free.grad = torch.randn(row.shape, generator=torch.Generator().manual_seed(1))
        loose.step()
    assert (free * other).sum(1).min() < math.cos(0.5)


def test_a_gradient_along_the_row_moves_nothing():
    row, mu, optimizer = directions(0.0)
    row.grad = 3.0 * mu
    optimizer.step()
    assert torch.allclose(row, mu, atol=1e-3)


def test_free_words_stay_within_their_bound(tmp_path):
    assert run(tmp_path, "adamw", steps=200)["token.zwx.clip_l"].norm() == pytest.approx(1.5, rel=1e-5)
