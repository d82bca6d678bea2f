"""The schedule against its closed forms (Stable Diffusion's: scaled_linear 0.00085 to 0.012 in 1000 steps)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM, TERMINAL

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
EPSILON = DDPM.from_config(SD)
VELOCITY = DDPM.from_config(SD, "v_prediction")


def batch(seed: int, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, count, 4, 2, 2, generator=generator).unbind()


def test_signal_to_noise_ratio_of_stable_diffusion():
    snr = EPSILON.snr(torch.arange(1000))
    assert snr[0] == pytest.approx(1175.5, abs=0.1)
    assert snr[999] == pytest.approx(0.00468, abs=1e-5)
    assert int((snr >= 5).sum()) - 1 == 146 and int((snr >= 1).sum()) - 1 in (353, 354)
    assert bool((snr.diff() < 0).all())
    assert EPSILON.alphas_cumprod.dtype == torch.float32 and len(EPSILON) == 1000


def test_agrees_with_diffusers():
    from diffusers import DDIMScheduler

    for prediction, rescaled in (("epsilon", False), ("v_prediction", True)):
        theirs = DDIMScheduler(**SD, prediction_type=prediction, rescale_betas_zero_snr=rescaled)
        mine = DDPM.from_config(theirs.config)
        assert mine.prediction == prediction
        torch.testing.assert_close(mine.alphas_cumprod, theirs.alphas_cumprod, atol=1e-6, rtol=1e-4)
        z0, noise = batch(0)
        t = torch.tensor([0, 500, 998])
        torch.testing.assert_close(mine.add_noise(z0, noise, t), theirs.add_noise(z0, noise, t), atol=1e-5, rtol=1e-4)
        if prediction == "v_prediction":
            wanted = theirs.get_velocity(z0, noise, t)
            torch.testing.assert_close(mine.target(z0, noise, t), wanted, atol=1e-5, rtol=1e-4)


@given(seed=st.integers(0, 1000), t=st.integers(0, 999))
def test_a_perfect_prediction_gives_back_latents_and_noise(seed: int, t: int):
    z0, noise = batch(seed)
    times = torch.full((len(z0),), t)
    for schedule, tolerance in ((EPSILON, 2e-4), (VELOCITY, 1e-5)):
        zt, target = schedule.add_noise(z0, noise, times), schedule.target(z0, noise, times)
        assert (schedule.to_clean(zt, target, times) - z0).abs().max() < tolerance
        assert (schedule.to_noise(zt, target, times) - noise).abs().max() < tolerance


@given(seed=st.integers(0, 1000), t=st.integers(0, 999))
def test_velocity_is_orthogonal_rotation(seed: int, t: int):
    """z_t^2 + v^2 = z_0^2 + e^2, elementwise."""
    z0, noise = batch(seed)
    times = torch.full((len(z0),), t)
    zt, v = VELOCITY.add_noise(z0, noise, times), VELOCITY.target(z0, noise, times)
    torch.testing.assert_close(zt**2 + v**2, z0**2 + noise**2, atol=1e-5, rtol=1e-5)


def test_zero_terminal_snr_keeps_the_first_step():
    rescaled = VELOCITY.with_zero_terminal_snr()
    assert rescaled.alphas_cumprod[-1].item() == pytest.approx(TERMINAL)
    assert rescaled.alphas_cumprod[0] == pytest.approx(VELOCITY.alphas_cumprod[0])
    assert bool((rescaled.alphas_cumprod.diff() < 0).all())
    assert DDPM.from_config(SD, "v_prediction", True).snr(torch.tensor(999)) < 1e-7
    assert DDPM.from_config({**SD, "rescale_betas_zero_snr": True}, zero_snr=False).snr(torch.tensor(999)) > 1e-3


def test_other_schedules():
    trained = DDPM.from_config({"trained_betas": [0.1, 0.2]})
    torch.testing.assert_close(trained.alphas_cumprod, torch.tensor([0.9, 0.72]))
    linear = DDPM.from_config({"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.2})
    assert linear.alphas_cumprod[0] == pytest.approx(0.9)
    with pytest.raises(FewShotError, match="squaredcos"):
        DDPM.from_config({"beta_schedule": "squaredcos_cap_v2"})
    with pytest.raises(FewShotError, match="'sample'"):
        DDPM.from_config({**SD, "prediction_type": "sample"})
