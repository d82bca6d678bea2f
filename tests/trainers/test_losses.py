"""Loss terms against closed forms and against torch's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import mse_loss

from comfyui_fewshot.models.schedule import NoiseSchedule
from comfyui_fewshot.trainers.losses import (
    min_snr_weight,
    part_of_mean,
    prior_loss,
    reference_loss,
    squared_error,
    weight_map,
)

SCHEDULE = NoiseSchedule.from_config(dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"))


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
    weight = min_snr_weight(SCHEDULE.snr(torch.tensor([0, 146, 500])), 5.0, "epsilon")
    assert weight[0].item() == pytest.approx(0.004254, abs=2e-6)
    assert weight[1].item() == pytest.approx(1.0, abs=0.01)
    assert weight[2].item() == 1.0


def test_min_snr_for_velocity():
    snr = torch.tensor([0.0, 1.0, 5.0, 99.0])
    assert min_snr_weight(snr, 5.0, "v_prediction").tolist() == pytest.approx([0.0, 0.5, 5 / 6, 0.05])


def test_min_snr_without_signal_is_finite():
    assert min_snr_weight(torch.tensor([0.0]), 5.0, "epsilon").tolist() == [1.0]


def test_prior_is_the_same_error():
    one, other, weight = numbers(2, 4, 8, 8), numbers(2, 4, 8, 8, seed=1), torch.tensor([0.5, 2.0])
    assert torch.equal(prior_loss(one, other, weight), squared_error(one, other) * weight)


@given(cut=st.integers(0, 6), seed=st.integers(0, 100))
def test_parts_add_up_to_the_mean(cut, seed):
    losses = numbers(6, seed=seed)
    parts = part_of_mean(losses[:cut], 6) + part_of_mean(losses[cut:], 6)
    assert parts.item() == pytest.approx(losses.mean().item(), abs=1e-6)
