"""The sampler as a policy, against torch's distributions, diffusers' scheduler, and closed forms."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.trainers.refine.sampler_policy import LEAST_STD, SamplerPolicy

CONFIG = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
SCHEDULE = DDPM.from_config(CONFIG)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_a_step_is_that_of_diffusers(eta, prediction):
    steps = 20
    scheduler = DDIMScheduler(
        **CONFIG, prediction_type=prediction, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=True
    )
    scheduler.set_timesteps(steps)
    policy = SamplerPolicy(DDPM(SCHEDULE.alphas_cumprod, prediction), steps, None, eta)
    assert policy.timesteps.tolist() == [*scheduler.timesteps.tolist(), -1]
    zt, said, noise = (normal(i, 3, 4, 8, 8) for i in range(3))
    for place in range(steps):
        step = policy.step(said, zt, torch.full((3,), place))
        theirs = scheduler.step(said, int(policy.timesteps[place]), zt, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(step.draw(noise), theirs, rtol=1e-5, atol=1e-5)


def test_steps_of_different_places_go_in_one_call():
    policy = SamplerPolicy(SCHEDULE, 10)
    zt, said = normal(0, 3, 4, 8, 8), normal(1, 3, 4, 8, 8)
    places = torch.tensor([0, 4, 7])
    together = policy.step(said, zt, places)
    for i, place in enumerate(places):
        alone = policy.step(said[i : i + 1], zt[i : i + 1], place.view(1))
        torch.testing.assert_close(together.mean[i], alone.mean[0])
        assert together.std[i] == alone.std[0]


def test_steps_without_noise_and_the_last_ones_are_not_trained():
    policy = SamplerPolicy(SCHEDULE, 20, skip_last=0)
    assert policy.std[-1] == 0 and policy.trainable == tuple(range(19))
    assert SamplerPolicy(SCHEDULE, 20, skip_last=2).trainable == tuple(range(18))
    assert all(policy.std[i] >= LEAST_STD for i in policy.trainable)
    assert torch.isfinite(policy.std.log()[list(policy.trainable)]).all()


def test_a_policy_without_noise_or_steps_is_refused():
    with pytest.raises(FewShotError, match="eta 0"):
        SamplerPolicy(SCHEDULE, 20, eta=0.0)
    with pytest.raises(FewShotError, match="left out"):
        SamplerPolicy(SCHEDULE, 2, skip_last=2)


def test_with_all_of_the_noise_the_forward_process_is_kept():
    """With the true noise as the prediction z_p has the marginal's variance: direction^2 + sigma^2 = 1 - a_p."""
    policy = SamplerPolicy(SCHEDULE, 20)
    alphas = SCHEDULE.alphas_cumprod[policy.timesteps[1:-1]]
    found = policy.coefficients.noise[:-1].float().square() + policy.std[:-1].square()
    torch.testing.assert_close(found, 1 - alphas, rtol=1e-4, atol=1e-5)
