"""Random numbers depend on what they are for, not on where or in which order they are drawn."""

import pytest
import torch

from comfyui_fewshot.core.randomness import Randomness


def test_a_sample_does_not_depend_on_its_batch():
    random = Randomness(7)
    whole = random.normal("noise", 3, range(6), (4, 8, 8))
    assert torch.equal(whole[4:5], Randomness(7).normal("noise", 3, [4], (4, 8, 8)))
    assert torch.equal(whole[[5, 0]], random.normal("noise", 3, [5, 0], (4, 8, 8)))
    assert torch.equal(random.integers("t", 3, range(6), 1000)[2:], random.integers("t", 3, [2, 3, 4, 5], 1000))
    assert torch.equal(random.uniform("u", 3, range(6))[1:3], random.uniform("u", 3, [1, 2]))


@pytest.mark.parametrize("other", [(8, "noise", 3, 0), (7, "other", 3, 0), (7, "noise", 4, 0), (7, "noise", 3, 1)])
def test_everything_in_the_address_matters(other):
    seed, stream, step, sample = other
    first = Randomness(7).normal("noise", 3, [0], (16,))
    assert not torch.equal(first, Randomness(seed).normal(stream, step, [sample], (16,)))


def test_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    Randomness(1).normal("noise", 0, range(4), (8,))
    assert torch.equal(before, torch.random.get_rng_state())


def test_distributions():
    random = Randomness(0)
    normal = random.normal("n", 0, range(50), (400,))
    assert abs(normal.mean().item()) < 0.03 and abs(normal.std().item() - 1) < 0.03
    counts = torch.bincount(random.integers("i", 0, range(4000), 4), minlength=4)
    assert counts.sum() == 4000 and counts.min() > 850
    uniform = random.uniform("u", 0, range(2000))
    assert 0 <= uniform.min() and uniform.max() < 1 and abs(uniform.mean().item() - 0.5) < 0.03


@pytest.mark.parametrize("count", [1, 2, 3, 5, 7, 10])
def test_choices_forget_nothing(count):
    """In every stretch of 4n draws each of n things is chosen at least twice and at most seven times."""
    random = Randomness(11)
    chosen = [random.choose("picture", draw, [1.0] * count) for draw in range(40 * count)]
    for start in range(0, 36 * count, count):
        part = chosen[start : start + 4 * count]
        assert all(2 <= part.count(i) <= 7 for i in range(count))


def test_choices_follow_weights():
    random = Randomness(2)
    chosen = [random.choose("picture", draw, [1.0, 3.0, 0.0]) for draw in range(400)]
    assert chosen.count(2) == 0
    assert chosen.count(1) == pytest.approx(300, abs=4)
