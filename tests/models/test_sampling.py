"""Sampling against diffusers' DDIM and against itself, and the autoencoder's scaling."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.process import step
from comfyui_fewshot.models.sampling import initial_noise, sample, sample_latents
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.models.stable_diffusion.latents import decode_latents, encode_pictures
from comfyui_fewshot.models.stable_diffusion.model import StableDiffusion

SIZE = {"width": 64, "height": 64, "steps": 3}


def test_timesteps_are_comfyuis():
    process = DDPM.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    assert process.sampling_times(4, None).tolist() == [999, 749, 499, 249, -1]
    assert process.sampling_times(30, None)[:3].tolist() == [999, 966, 933]
    assert process.sampling_times(1000, None).tolist() == [*range(999, -1, -1), -1]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_is_diffusers_ddim(prediction: str):
    theirs = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction,
    )
    theirs.set_timesteps(4)
    mine = DDPM.from_config(theirs.config)
    zt, output = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).unbind()
    for t, after in ((750, 500), (0, mine.CLEAN)):
        wanted = theirs.step(output, t, zt).prev_sample
        found = step(mine, zt, output, torch.tensor([t]), torch.tensor([after])).mean
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_picture_depends_on_its_own_seed_and_prompt_alone(opened_pocket: StableDiffusion):
    prompts, seeds = ["a red cat", "a dog", "a red cat"], [3, 4, 5]
    together = sample(opened_pocket, prompts, seeds, **SIZE)
    assert together.shape == (3, 3, 64, 64) and together.min() >= 0 and together.max() <= 1
    alone = sample(opened_pocket, prompts[1:], seeds[1:], batch=1, **SIZE)
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)
    assert torch.equal(together, sample(opened_pocket, prompts, seeds, **SIZE))
    assert not torch.allclose(together[0], together[2], atol=1e-2)


def test_noise_is_one_stream_a_seed():
    torch.manual_seed(7)
    assert torch.equal(initial_noise((4, 2, 2), 7), torch.randn(1, 4, 2, 2)[0])
    state = torch.random.get_rng_state()
    initial_noise((4, 2, 2), 8)
    assert torch.equal(state, torch.random.get_rng_state())


def test_guidance(opened_pocket: StableDiffusion):
    calls = []
    forward = opened_pocket.unet.forward
    opened_pocket.unet.forward = lambda *args, **kwargs: calls.append(len(args[0])) or forward(*args, **kwargs)
    try:
        plain = sample_latents(opened_pocket, ["a cat"], [1], guidance=1.0, **SIZE)
        assert calls == [1, 1, 1]
        same = sample_latents(opened_pocket, ["a cat"], [1], negative="a cat", guidance=5.0, **SIZE)
        assert calls == [1, 1, 1, 2, 2, 2]
    finally:
        opened_pocket.unet.forward = forward
    torch.testing.assert_close(plain, same, atol=1e-3, rtol=1e-3)
    other = sample_latents(opened_pocket, ["a cat"], [1], negative="a dog", guidance=5.0, **SIZE)
    assert (other - plain).abs().max() > 1e-3


class Impatient:
    def __init__(self):
        self.seen: list[tuple[int, int]] = []

    def check(self) -> None:
        if len(self.seen) == 2:
            raise InterruptedError

    def report(self, done: int, total: int, text: str = "", picture=None) -> None:
        self.seen.append((done, total))


def test_sampling_tells_and_stops(opened_pocket: StableDiffusion):
    progress = Impatient()
    with pytest.raises(InterruptedError):
        sample(opened_pocket, ["a"] * 3, [1, 2, 3], batch=2, progress=progress, **SIZE)
    assert progress.seen == [(1, 6), (2, 6)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 60}, "multiples of 8"),
        ({"height": 0}, "multiples of 8"),
        ({"steps": 0}, "0 sampling steps"),
        ({"batch": 0}, "batch of 0"),
        ({"seeds": [1, 2]}, "1 prompts and 2 seeds"),
    ],
)
def test_impossible_requests(opened_pocket: StableDiffusion, change: dict, words: str):
    with pytest.raises(FewShotError, match=words):
        sample(opened_pocket, ["a cat"], **({"seeds": [1]} | SIZE | change))


def test_latents_are_scaled(opened_pocket: StableDiffusion):
    pictures = torch.rand(2, 3, 64, 64)
    mean, std = encode_pictures(opened_pocket, pictures)
    assert mean.shape == std.shape == (2, 8, 8, 8) and mean.dtype == torch.float32 and bool((std > 0).all())
    scale = opened_pocket.vae.config.scaling_factor
    with torch.no_grad():
        raw = opened_pocket.vae.encode(pictures * 2 - 1).latent_dist
        torch.testing.assert_close(mean, raw.mean * scale)
        torch.testing.assert_close(std, raw.std * scale)
        decoded = decode_latents(opened_pocket, mean)
        torch.testing.assert_close(decoded, (opened_pocket.vae.decode(raw.mean).sample / 2 + 0.5).clamp(0, 1))
