"""Advantages and the loss of policy gradients, in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.trainers.refine.advantages import PromptStatistics, group_advantages, mixed, pooled_advantages
from comfyui_fewshot.trainers.refine.losses import clip_for, importance_loss

REWARDS = st.lists(st.floats(-100, 100, width=32), min_size=4, max_size=12)


@settings(max_examples=50, deadline=None)
@given(REWARDS, st.floats(0.1, 10), st.floats(-5, 5))
def test_group_advantages_are_standard_and_know_no_scale(values, scale, shift):
    rewards = torch.tensor(values, dtype=torch.float64)
    if rewards.std(correction=0) < 1e-2:
        return
    found = group_advantages(rewards, [0] * len(values))
    assert found.mean().abs() < 1e-4 and abs(found.std(correction=0) - 1) < 1e-3
    torch.testing.assert_close(group_advantages(scale * rewards + shift, [0] * len(values)), found, atol=1e-3, rtol=0)


def test_each_group_stands_for_itself_and_one_of_equals_tells_nothing():
    rewards = torch.tensor([1.0, 3.0, 0.1, 0.1, 10.0, 30.0])
    found = group_advantages(rewards, [0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 0.0, 0.0, -1.0, 1.0]))
    assert torch.equal(found[2:4], torch.zeros(2))


def test_pooled_advantages_count_a_group_by_how_much_it_differs():
    rewards = torch.tensor([1.0, 3.0, 0.1, 0.1, 10.0, 30.0])
    found = pooled_advantages(rewards, [0, 0, 1, 1, 2, 2])
    std = ((1 + 1 + 100 + 100) / 6) ** 0.5
    torch.testing.assert_close(found, torch.tensor([-1.0, 1.0, 0.0, 0.0, -10.0, 10.0]) / std)
    assert not found[2:4].any() and not pooled_advantages(torch.full((4,), 0.3), [0, 0, 1, 1]).any()
    one = torch.tensor([0.4, 0.1, 0.7])
    torch.testing.assert_close(pooled_advantages(one, [5, 5, 5]), group_advantages(one, [5, 5, 5]))


def test_a_prompt_is_compared_with_itself_once_it_has_earned_enough():
    statistics = PromptStatistics(2, size=4, enough=3)
    first = statistics.advantages(torch.tensor([1.0, 2.0, 11.0, 12.0]), [0, 0, 1, 1])
    everything = torch.tensor([1.0, 2.0, 11.0, 12.0])
    torch.testing.assert_close(first, (everything - 6.5) / everything.std(correction=0))
    second = statistics.advantages(torch.tensor([3.0, 4.0, 11.0]), [0, 0, 1])
    kept = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(second[:2], (kept[2:] - 2.5) / kept.std(correction=0))
    own = torch.tensor([11.0, 12.0, 11.0])
    torch.testing.assert_close(second[2], (11 - own.mean()) / own.std(correction=0))
    statistics.advantages(torch.tensor([5.0]), [0])
    assert statistics.table[0].tolist() == [2, 3, 4, 5]


def test_rewards_are_mixed_in_their_own_deviations():
    one, two = (
        group_advantages(torch.tensor([0.1, 0.3]), [0, 0]),
        group_advantages(torch.tensor([500.0, 100.0]), [0, 0]),
    )
    torch.testing.assert_close(mixed([one, two], [3.0, 1.0]), torch.tensor([-0.5, 0.5]))
    nowhere = torch.tensor([torch.nan, 1.0])
    torch.testing.assert_close(mixed([one, nowhere], [1.0, 1.0]), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("clip", [1e-4, 0.2])
def test_the_gradient_at_ratio_one_is_reinforce(clip):
    log_prob = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    advantage = torch.tensor([1.5, -2.0, 0.0])
    loss, clipped = importance_loss(log_prob, log_prob.detach(), advantage, clip)
    assert torch.equal(loss, -advantage) and not clipped.any()
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert torch.equal(gradient, -advantage)


def test_beyond_the_clip_only_what_makes_it_worse_has_a_gradient():
    log_prob = torch.tensor([0.5, 0.5, -0.5, -0.5], requires_grad=True)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, clipped = importance_loss(log_prob, torch.zeros(4), advantage, 0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), log_prob)
    assert clipped.all()
    assert torch.equal(gradient == 0, torch.tensor([True, False, False, True]))


def test_the_clip_bounds_the_same_true_log_ratio_at_every_size():
    for side in (16, 64, 128):
        numbers = side * side * 4
        assert clip_for(1e-4, numbers) * numbers == pytest.approx(1e-4 * 16384)
