"""What guards decide of readings whose truth and noise are known, and how often they are wrong.

Each draw is a refinement: pictures of some prompts whose rewards at the start have a standard deviation of 1, and
readings that add what is true to them, noise of each prompt and noise of each picture.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from comfyui_fewshot.trainers.refine.guards import Floors, Reading, Readings

DRAWS = 400
BETWEEN, WITHIN = 0.4, 0.9
"""standard deviations of a change among prompts and among pictures of a prompt"""
SIZES = [(5, 7), (16, 2)]
"""prompts of a reading, and pictures of each"""


class Noisy:
    """Refinements of known truth."""

    def __init__(self, prompts: int, pictures: int, seed: int = 0):
        self.random = np.random.default_rng([prompts, pictures, seed])
        self.prompts = np.repeat(np.arange(prompts), pictures)
        self.count, self.size = prompts, len(self.prompts)

    def noise(self, scale: float = 1.0) -> np.ndarray:
        """Of a reading's pictures."""
        shared = BETWEEN * self.random.normal(size=self.count)[self.prompts]
        return scale * (shared + WITHIN * self.random.normal(size=self.size))

    def readings(self, gains=(0.0,), likeness=None) -> Readings:
        """The start, and a reading for each gain, at which the likeness is that."""
        start = stats.zscore(self.random.normal(size=self.size))
        rows = [start, *(start + gain + self.noise() for gain in gains)]
        seen = [()] * len(rows)
        if likeness is not None:
            own = 0.8 + 0.1 * self.random.normal(size=self.size)
            seen = [own, *(own * share + self.noise(0.1) for share in likeness)]
        found = [
            Reading(step, (tuple(row.tolist()),), tuple(map(float, axis)))
            for step, (row, axis) in enumerate(zip(rows, seen, strict=True))
        ]
        return Readings(tuple(found), (1.0,), tuple(self.prompts.tolist()), Floors())


def share(found) -> float:
    return sum(found) / DRAWS


def bound(rate: float) -> float:
    """What a rate may come to in DRAWS draws: three standard errors more."""
    return rate + 3 * (rate * (1 - rate) / DRAWS) ** 0.5


@pytest.mark.parametrize("size", SIZES)
def test_standard_errors_are_those_of_the_noise(size):
    noisy = Noisy(*size)
    found = [one.gain(one.readings[1]) for one in (noisy.readings() for _ in range(DRAWS))]
    known = (BETWEEN**2 / noisy.count + WITHIN**2 / noisy.size) ** 0.5
    assert np.mean([one.standard_error**2 for one in found]) ** 0.5 == pytest.approx(known, rel=0.08)
    assert np.std([one.mean for one in found]) == pytest.approx(known, rel=0.12)


@pytest.mark.parametrize("size", SIZES)
def test_a_gain_of_one_deviation_is_kept(size):
    """Whether it comes at once or slowly: what is returned is near the whole of it."""
    noisy, slowly = Noisy(*size), np.linspace(0, 1, 9)[1:]
    at_once = [noisy.readings([1.0] * 4).best.step for _ in range(DRAWS)]
    assert share(step > 0 for step in at_once) >= 0.99
    kept = [slowly[step - 1] if step else 0.0 for step in (noisy.readings(slowly).best.step for _ in range(DRAWS))]
    assert share(gain > 0.7 for gain in kept) >= 0.95


@pytest.mark.parametrize("size", SIZES)
def test_a_refinement_that_changes_nothing_is_seldom_called_worse(size):
    noisy = Noisy(*size)
    rate = stats.t.cdf(-2, noisy.count - 1)
    worse = share(noisy.readings([0.0]).best.step == 0 for _ in range(DRAWS))
    assert worse <= bound(rate) and rate < 0.06


@pytest.mark.parametrize("size", SIZES)
def test_what_lost_a_deviation_is_not_returned(size):
    noisy = Noisy(*size)
    rate = share(noisy.readings([0.0, -1.0]).best.step < 2 for _ in range(DRAWS))
    assert rate >= 0.9


@pytest.mark.parametrize("size", SIZES)
def test_a_likeness_that_is_lost_fails_and_one_that_is_kept_does_not(size):
    """0.8 of it lies 0.08 below the floor, 0.6 of it 0.24; kept, it lies 0.08 above."""
    noisy = Noisy(*size)
    for kept, least, most in ((1.0, 0.0, 0.01), (0.9, 0.0, bound(stats.t.cdf(-2, noisy.count - 1))), (0.6, 0.99, 1.0)):
        every = [noisy.readings([1.0], [kept]) for _ in range(DRAWS)]
        rate = share(bool(one.failed(one.readings[1])) for one in every)
        assert least <= rate <= most, kept
