"""Loss terms against closed forms and against torch's own."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.trainers.losses import (
    SURE,
    consistency_loss,
    local_loss,
    min_snr_weight,
    part_of_mean,
    prior_loss,
    reference_loss,
    squared_error,
    weight_map,
)

SCHEDULE = DDPM.from_config(dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_plain_error_is_torchs():
    one, other = numbers(3, 4, 8, 8), numbers(3, 4, 8, 8, seed=1)
    assert squared_error(one, other).mean().item() == pytest.approx(mse_loss(one, other).item(), abs=1e-6)
    assert squared_error(one, other).shape == (3,)


def test_half_precision_is_computed_in_float32():
    one, other = numbers(1, 4, 8, 8).half(), numbers(1, 4, 8, 8, seed=1).half()
    assert squared_error(one, other).dtype == torch.float32
    assert torch.equal(squared_error(one, other), squared_error(one.float(), other.float()))


def test_full_mask_is_the_plain_error():
    one, other = numbers(2, 4, 8, 8), numbers(2, 4, 8, 8, seed=1)
    masked = reference_loss(one, other, weight_map(torch.ones(2, 1, 8, 8), 0.3))
    assert torch.allclose(masked, reference_loss(one, other), atol=1e-6)


def test_empty_surroundings_change_nothing():
    """The masked loss is normalised by area: a larger background of weight 0 gives the same number."""
    one, other, mask = numbers(1, 4, 8, 8), numbers(1, 4, 8, 8, seed=1), torch.zeros(1, 1, 8, 8)
    mask[..., 2:5, 3:7] = 1
    pad = (0, 8, 0, 8)
    larger = [torch.nn.functional.pad(t, pad, value=v) for t, v in ((one, 3.0), (other, -2.0), (mask, 0.0))]
    assert torch.allclose(squared_error(one, other, mask), squared_error(*larger), atol=1e-6)


def test_masked_error_of_a_constant():
    """Error 2 inside half the picture, 1 outside, background 0.5: (4 + 0.5 * 1) / 1.5."""
    error, mask = torch.ones(1, 4, 2, 2), torch.zeros(1, 1, 2, 2)
    error[..., 0, :], mask[..., 0, :] = 2.0, 1.0
    assert squared_error(error, torch.zeros_like(error), weight_map(mask, 0.5)).item() == pytest.approx(3.0)


def test_min_snr_values():
    """SNR is 1175 at t = 0 and 5 at t = 146 on Stable Diffusion's schedule."""
    times = torch.tensor([0, 146, 500])
    weight = min_snr_weight(SCHEDULE.snr(times), SCHEDULE.error_ratio(times), 5.0)
    assert weight[0].item() == pytest.approx(0.004254, abs=2e-6)
    assert weight[1].item() == pytest.approx(1.0, abs=0.01)
    assert weight[2].item() == 1.0


def test_min_snr_for_velocity():
    snr = torch.tensor([0.0, 1.0, 5.0, 99.0])
    assert min_snr_weight(snr, snr + 1, 5.0).tolist() == pytest.approx([0.0, 0.5, 5 / 6, 0.05])


def test_min_snr_without_signal_is_finite():
    assert min_snr_weight(torch.tensor([0.0]), torch.tensor([0.0]), 5.0).tolist() == [1.0]


def test_prior_is_the_same_error():
    one, other, weight = numbers(2, 4, 8, 8), numbers(2, 4, 8, 8, seed=1), torch.tensor([0.5, 2.0])
    assert torch.equal(prior_loss(one, other, weight), squared_error(one, other) * weight)


@given(cut=st.integers(0, 6), seed=st.integers(0, 100))
def test_parts_add_up_to_the_mean(cut, seed):
    losses = numbers(6, seed=seed)
    parts = part_of_mean(losses[:cut], 6) + part_of_mean(losses[cut:], 6)
    assert parts.item() == pytest.approx(losses.mean().item(), abs=1e-6)


# ------------------------------------------------------------------------------------------------------- L_local


def half_mask(count=1):
    mask = torch.zeros(1, count, 4, 4)
    mask[..., :2, :] = 1
    return mask


def test_local_loss_of_certain_and_right_attention():
    """p = M gives -log(1 - SURE), whatever the area; the same for a mask that fills the picture."""
    for mask in (half_mask(), torch.ones(1, 1, 4, 4)):
        found = local_loss(mask, mask, torch.ones(1, 1))
        assert found.item() == pytest.approx(-math.log(1 - SURE), rel=1e-4)


def test_local_loss_at_chance():
    """p = 1/2 everywhere is log 2."""
    assert local_loss(torch.full((1, 1, 4, 4), 0.5), half_mask(), torch.ones(1, 1)).item() == pytest.approx(math.log(2))


@given(inside=st.floats(0.01, 0.99), outside=st.floats(0.01, 0.99), rows=st.integers(1, 3))
def test_local_loss_does_not_depend_on_the_area(inside, outside, rows):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :rows, :] = 1
    shares = mask * inside + (1 - mask) * outside
    p, q = inside * (1 - 2 * SURE) + SURE, outside * (1 - 2 * SURE) + SURE
    expected = -(math.log(p) + math.log(1 - q)) / 2
    assert local_loss(shares, mask, torch.ones(1, 1)).item() == pytest.approx(expected, rel=1e-4)


def test_soft_masks_weigh_both_sides():
    """M = 1/4, p = 1/2: both means are log 2."""
    quarter = torch.full((1, 1, 2, 2), 0.25)
    assert local_loss(quarter * 2, quarter, torch.ones(1, 1)).item() == pytest.approx(math.log(2))


def test_invalid_subjects_count_for_nothing():
    shares = torch.rand(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    both = local_loss(shares, half_mask(2).expand(2, -1, -1, -1), valid)
    alone = local_loss(shares[:1, :1], half_mask(), torch.ones(1, 1))
    assert both[0].item() == pytest.approx(alone.item()) and both[1].item() == 0


def test_losses_follow_the_order_of_the_batch():
    shares = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    masks, order = half_mask().expand(3, -1, -1, -1), [2, 0, 1]
    alone = local_loss(shares, masks, torch.ones(3, 1))
    assert torch.equal(alone[order], local_loss(shares[order], masks, torch.ones(3, 1)))


def test_the_worst_place_feels_the_loss():
    """The place of the largest attention, outside the mask: its own logit is pushed down, as dividing by a maximum
    with a clamp would not do."""
    logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
    with torch.no_grad():
        logits[..., 3, 3] = 6.0
    local_loss(logits.sigmoid(), half_mask(), torch.ones(1, 1)).sum().backward()
    assert logits.grad[0, 0, 3, 3] > 0.04 and logits.grad[0, 0, 0, 0] < 0


# ----------------------------------------------------------------------------------------------------------- DCO


def test_consistency_starts_as_the_squared_error():
    """Where nothing is learned: the value is 2 log(2) / beta, the gradient that of the error."""
    error = torch.tensor([0.3, 1.2], requires_grad=True)
    loss = consistency_loss(error, error.detach(), 1000.0)
    assert loss.tolist() == pytest.approx([2 * math.log(2) / 1000] * 2)
    loss.sum().backward()
    assert error.grad.tolist() == pytest.approx([1.0, 1.0])


def test_consistency_gains_nothing_far_away():
    """Far below the base the gradient is gone; far above it is twice the error's."""
    error = torch.tensor([0.1, 0.9], requires_grad=True)
    consistency_loss(error, torch.tensor([0.5, 0.5]), 1000.0).sum().backward()
    assert error.grad.tolist() == pytest.approx([0.0, 2.0], abs=1e-6)
