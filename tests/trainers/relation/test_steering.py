"""Steering, focal timesteps and the adversarial loss against closed forms and limits."""

import math
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from comfyui_fewshot.benchmarks.relation.literal_adversary import LiteralAdversary
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.trainers.losses import steering_loss
from comfyui_fewshot.trainers.optim.optimizers import DISCRIMINATOR
from comfyui_fewshot.trainers.relation import discriminator
from comfyui_fewshot.trainers.relation.adversarial import (
    ADVERSARIAL,
    PENALTY,
    RENOISED,
    Adversary,
    factors,
    gradient_penalty,
    shifted,
)
from comfyui_fewshot.trainers.relation.discriminator import Discriminator, normalised
from comfyui_fewshot.trainers.relation.timesteps import drawn_times, relation_focal

SCHEDULE = DDPM.from_config(dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))
AXES = torch.eye(32)
NEAR, FAR = AXES[:8], AXES[8:24]


def test_steering_has_its_closed_forms():
    """All orthogonal: log((P + N) / P); the word is a positive, or a negative (P = 8, N = 16, temperature 0.07)."""
    e = math.exp(1 / 0.07)
    assert steering_loss(AXES[31], NEAR, FAR, 0.07).item() == pytest.approx(math.log(24 / 8), abs=1e-6)
    assert steering_loss(3 * NEAR[0], NEAR, FAR, 0.07).item() == pytest.approx(math.log(1 + 16 / (e + 7)), abs=1e-6)
    assert steering_loss(FAR[0], NEAR, FAR, 0.07).item() == pytest.approx(math.log((23 + e) / 8), abs=1e-4)
    assert math.log((23 + e) / 8) == pytest.approx(12.2063, abs=1e-4)


def test_steering_moves_the_word_alone():
    word = torch.randn(32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    near, far = NEAR.clone().requires_grad_(), FAR.clone().requires_grad_()
    steering_loss(word, near, far, 0.07).backward()
    assert near.grad is None and far.grad is None
    assert (word.grad @ word).item() == pytest.approx(0, abs=1e-5)  # only its direction counts
    with torch.no_grad():
        nearer = word - 0.1 * word.grad
    assert steering_loss(nearer, NEAR, FAR, 0.07) < steering_loss(word, NEAR, FAR, 0.07)


def test_focal_probabilities():
    """q(0) T = 0.5003, q(T - 1) T = 1.5007, mean 600.9, P(t >= 500) = 0.659 at alpha 0.5; uniform at 0."""
    q = relation_focal(1000, 0.5)
    assert (q[0] * 1000).item() == pytest.approx(0.5003, abs=5e-5)
    assert (q[-1] * 1000).item() == pytest.approx(1.5007, abs=5e-5)
    assert (q * torch.arange(1000)).sum().item() == pytest.approx(600.9, abs=0.05)
    assert q[500:].sum().item() == pytest.approx(0.659, abs=5e-4)
    assert torch.equal(relation_focal(1000, 0.0), torch.full((1000,), 1e-3, dtype=torch.float64))


def test_drawn_timesteps_follow_their_probabilities():
    """Chi-squared over 20 bins of 40,000 draws stays below its 99.9 % point (43.8 for 19 degrees of freedom)."""
    q = relation_focal(1000, 0.5)
    times = drawn_times(Randomness(3), "t", 0, range(40_000), q)
    assert times.min() >= 0 and times.max() < 1000
    seen = torch.bincount(times // 50, minlength=20).double()
    expected = q.view(20, 50).sum(1) * len(times)
    assert ((seen - expected) ** 2 / expected).sum() < 43.8
    part = drawn_times(Randomness(3), "t", 0, [7, 9], q)
    assert torch.equal(part, times[[7, 9]])


# ------------------------------------------------------------------------------------------------- adversarial


class _Line(nn.Module):
    """D(x) = w . x, whose gradient is w."""

    def __init__(self, count):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, generator=torch.Generator().manual_seed(1)))

    def forward(self, latents, levels):
        return (latents.flatten(1) @ self.weight)[:, None]


def test_the_gradient_penalty_of_a_line_is_its_slope():
    line = _Line(4 * 8 * 8)
    found = gradient_penalty(line, torch.randn(3, 4, 8, 8), torch.zeros(3))
    assert found.tolist() == pytest.approx([PENALTY / 2 * line.weight.square().sum().item()] * 3, rel=1e-5)


@given(st.integers(2, 40), st.integers(2, 40))
def test_normalised_weights_have_a_largest_singular_value_near_one(rows, columns):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows * 100 + columns))
    largest = torch.linalg.matrix_norm(normalised(weight, 60), 2).item()
    assert largest == pytest.approx(1, abs=0.05)


@given(st.integers(-3, 3), st.integers(-3, 3))
def test_shifting(down, right):
    latents = torch.arange(1.0, 65.0).view(1, 8, 8)
    moved = shifted(latents, down, right)
    for y in range(8):
        for x in range(8):
            inside = 0 <= y - down < 8 and 0 <= x - right < 8
            assert moved[0, y, x] == (latents[0, y - down, x - right] if inside else 0)


@pytest.fixture
def narrow(monkeypatch):
    """A discriminator that learns in seconds."""
    monkeypatch.setattr(discriminator, "WIDTHS", (16, 32, 32, 32))


def _adversary(kind=Adversary):
    return kind(SimpleNamespace(mean=torch.zeros(1, 4, 8, 8)), SCHEDULE, seed=1)


def _inputs(times=(100, 300, 500, 900)):
    draw = torch.Generator().manual_seed(2)
    clean, noise, real = (torch.randn(4, 4, 8, 8, generator=draw) for _ in range(3))
    times = torch.tensor(times)
    return SCHEDULE.add_noise(clean, noise, times), times, noise, real, clean


@pytest.mark.parametrize("kind", [Adversary, LiteralAdversary])
def test_each_side_has_its_own_gradient(kind):
    """The generator's loss gives the discriminator none, and the discriminator's gives the prediction none."""
    adversary = _adversary(kind)
    noisy, times, noise, real, _ = _inputs()
    prediction = noise.clone().requires_grad_()
    found = adversary.losses(noisy, times, prediction, real, 1, range(4))
    found[ADVERSARIAL].sum().backward(retain_graph=True)
    assert all(p.grad is None for p in adversary.network.parameters()) and prediction.grad.abs().sum() > 0
    before = prediction.grad.clone()
    found[DISCRIMINATOR].sum().backward()
    assert torch.equal(prediction.grad, before)
    assert all(p.grad is not None for p in adversary.network.parameters())


def test_untrusted_timesteps_give_the_prediction_no_gradient():
    noisy, times, noise, real, _ = _inputs()
    prediction = noise.clone().requires_grad_()
    _adversary().losses(noisy, times, prediction, real, 1, range(4))[ADVERSARIAL].sum().backward()
    moved = prediction.grad.flatten(1).abs().sum(1) > 0
    assert moved.tolist() == [True, True, True, False]  # 900 lies above six tenths of the schedule


def test_a_right_prediction_is_the_clean_latent():
    noisy, times, noise, _, clean = _inputs()
    assert torch.allclose(SCHEDULE.to_clean(noisy, noise, times), clean, atol=1e-5 * 20)


def test_parts_of_a_batch_say_the_same():
    adversary = _adversary()
    noisy, times, noise, real, _ = _inputs()
    whole = adversary.losses(noisy, times, noise, real, 16, range(4))
    part = adversary.losses(noisy[2:], times[2:], noise[2:], real[2:], 16, [2, 3])
    for name, values in whole.items():
        assert torch.allclose(values[2:], part[name], atol=1e-6), name


def _learn(adversary, optimizer, draw, shift, steps):
    """Show it real latents moved by `shift` against the predicted ones; how often it is right at the end, how far its
    verdicts lie apart, and how long the gradient is that the prediction gets."""
    right, gaps, slopes = [], [], []
    for step in range(steps):
        real, clean, noise = (torch.randn(16, 4, 8, 8, generator=draw) for _ in range(3))
        real = real + shift
        times = torch.randint(0, 100, (16,), generator=draw)
        noisy, prediction = SCHEDULE.add_noise(clean, noise, times), noise.clone().requires_grad_()
        found = adversary.losses(noisy, times, prediction, real, step, range(16))
        optimizer.zero_grad()
        (found[DISCRIMINATOR].mean() + found[ADVERSARIAL].mean()).backward()
        if step >= steps - 40:
            slopes.append(prediction.grad.norm().item())
            levels = torch.randint(0, int(1000 * RENOISED), (16,), generator=draw)
            with torch.no_grad():
                said = [adversary.network(SCHEDULE.add_noise(x, noise, levels), levels).mean(1) for x in (real, clean)]
            right += [*(said[0] > 0).tolist(), *(said[1] < 0).tolist()]
            gaps.append((said[0].mean() - said[1].mean()).item())
        optimizer.step()
    return sum(right) / len(right), mean(gaps), mean(slopes)


def test_what_cannot_be_told_apart_is_judged_evenly(narrow):
    """A discriminator that told two distributions apart finds nothing, and pulls at nothing, when they become one."""
    adversary, draw = _adversary(), torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(adversary.network.parameters(), 1e-3, betas=(0.0, 0.99))
    apart, gap, slope = _learn(adversary, optimizer, draw, 0.7, 150)
    assert apart > 0.8 and gap > 0.2
    alike, no_gap, no_slope = _learn(adversary, optimizer, draw, 0.0, 150)
    assert alike == pytest.approx(0.5, abs=0.06) and abs(no_gap) < 0.2 * gap and no_slope < 0.5 * slope


def test_a_predictor_follows_the_discriminator_to_the_real_mean(narrow):
    """A mean shift in latent space is closed: the generator's only parameter is the mean of its fakes."""
    adversary = _adversary()
    mean = torch.zeros(4, 1, 1, requires_grad=True)
    sides = [
        torch.optim.Adam(adversary.network.parameters(), 1e-3, betas=(0.0, 0.99)),
        torch.optim.Adam([mean], 2e-2, betas=(0.0, 0.99)),
    ]
    draw, target = torch.Generator().manual_seed(4), torch.tensor([1.0, -1.0, 0.5, 0.0]).view(4, 1, 1)
    times = torch.full((8,), 50)
    for step in range(250):
        real, fake, noise = (torch.randn(8, 4, 8, 8, generator=draw) * 0.3 for _ in range(3))
        noisy = SCHEDULE.add_noise(fake + mean, noise, times)
        found = adversary.losses(noisy, times, noise, real + target, step, range(8))
        for side in sides:
            side.zero_grad()
        (found[ADVERSARIAL].mean() + found[DISCRIMINATOR].mean()).backward()
        for side in sides:
            side.step()
    assert (mean - target).abs().max() < 0.35, mean.flatten()


def test_when_the_adversarial_loss_counts():
    """From a fifth of the steps on, but not before the discriminator learned for 200 or half of all."""
    for steps, low in ((1000, 200), (2000, 400), (400, 200), (100, 50)):
        assert factors("joint", low, steps) == (1.0, 0.0) and factors("joint", low + steps // 5, steps) == (1.0, 1.0)
        assert factors("joint", low + steps // 10, steps) == (1.0, pytest.approx(0.5))
    assert factors("sequence", 59, 100) == (1.0, 0.0) and factors("sequence", 60, 100) == (0.0, 1.0)


def test_the_loss_is_halved_when_the_discriminator_is_too_sure():
    """By what it said of the last hundred steps' real latents, each hundred by itself."""
    adversary = _adversary()
    factors_seen = []
    for step, right in enumerate([3.9] * 100 + [3.7] * 100 + [4.0] * 101):
        adversary.begin(step)
        factors_seen.append(adversary.factor.item())
        adversary.watch(torch.where(torch.arange(40.0) < 10 * right, 1.0, -1.0)[:, None])
    assert [factors_seen[n] for n in (0, 99, 100, 199, 200, 299, 300)] == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
    again = _adversary()
    again.load(adversary.state(301))
    assert again.factor == 0.25 and again.counted == adversary.counted == 40
    assert adversary.state(300)["seen"] == 0  # a step that was begun and cut is begun anew


@pytest.mark.parametrize("side", [4, 8, 64])
def test_a_discriminator_judges_sixteen_places(side):
    assert Discriminator(4, side)(torch.randn(2, 4, side, side), torch.tensor([0, 299])).shape == (2, 16)
