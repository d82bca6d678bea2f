"""Refinement in a world with an exact denoiser: pictures are normal, and only their mean is learned.

What a method does there is what its equations say, and none of it is a network's: the mean goes where more is earned,
and nowhere else.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Parameter

from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.randomness import Randomness
from comfyui_fewshot.models.stable_diffusion.ddpm import DDPM
from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.refine.method import STEPS, split
from comfyui_fewshot.trainers.refine.rollout import RolloutSampler
from comfyui_fewshot.trainers.refine.sampler_policy import SamplerPolicy
from comfyui_fewshot.trainers.refine.step import REWARD

from .refining import CHOSEN, PROMPTS, Red

SCHEDULE = DDPM.from_config(
    dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
)
SPREAD = 0.5  # the standard deviation of each number of a picture
SHAPE = (3, 2, 2)  # red, green and blue of four dots
ROUNDS = 16


class Mean:
    """The one thing that is learned, as `Injected` gives it: what is added to pictures that are normal around 0."""

    def __init__(self) -> None:
        self.parameters = {"mean": Parameter(torch.zeros(SHAPE))}

    @torch.no_grad()
    def load(self, state) -> None:
        self.parameters["mean"].copy_(state["mean"])

    @contextmanager
    def disabled(self):
        learned = self.parameters["mean"].detach().clone()
        self.load({"mean": torch.zeros(SHAPE)})
        yield
        self.load({"mean": learned})


class World(RolloutSampler):
    """Draws from the normal distribution of `mean` and SPREAD: its denoiser says E(z0 | zt)."""

    def __init__(self, mean: Mean, policy: SamplerPolicy, seed: int):
        self.mean, self.policy, self.guidance, self.guided, self.batch_size = mean, policy, 1.0, False, 64
        about = dict(process=SCHEDULE, device=torch.device("cpu"), dtype=torch.float32)
        self.model = SimpleNamespace(predict=self._predict, **about)  # type: ignore[assignment]
        self.random, self.progress, self.on_device, self.shape = Randomness(seed), NullProgress(), nullcontext, SHAPE
        self.size, self.prompts = None, split(PROMPTS)[0]
        self.conditioning = SimpleNamespace(take=list)  # type: ignore[assignment]

    def _predict(self, latents: Tensor, times: Tensor, conditioning) -> Tensor:
        alpha = SCHEDULE.alphas_cumprod[times].view(-1, 1, 1, 1)
        mean = self.mean.parameters["mean"]
        gain = alpha.sqrt() * SPREAD**2 / (alpha * SPREAD**2 + 1 - alpha)
        clean = mean + gain * (latents - alpha.sqrt() * mean)
        return (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    def pictures(self, latents: Tensor) -> list[Image.Image]:
        values = (128 + 32 * latents).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(np.ascontiguousarray(value)) for value in values]


def learned(method: str, seed: int, **changes) -> tuple[Tensor, list[float]]:
    """The mean after ROUNDS rounds in which red earns and blue costs, and what each round earned."""
    settings = replace(
        CHOSEN, method=method, prompts_per_round=2, group=32, updates=2, sampling_steps=8, guidance=1.0, seed=seed,
        **({} if method == "draft" else {"trained_steps": 4}),
        **({"explore": 0.0} if method in ("nft", "pairs") else {}),  # there is no adapter whose strength is lowered
        **changes,
    )  # fmt: skip
    mean, known = Mean(), method in ("grpo", "ddpo", "grpo_clamped")
    world = World(mean, SamplerPolicy(SCHEDULE, 8, None, settings.eta, settings.skip_last, known), seed)
    reward_models = Red().open("cpu", ())
    step = STEPS[method](world, reward_models, mean, settings, SingleProcess(), None)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(list(mean.parameters.values()), lr=0.03, weight_decay=0.0)
    earned = []
    for number in range(ROUNDS * settings.updates):
        optimizer.zero_grad()
        for terms in step.passes(number, SingleProcess().shard):
            torch.stack([step.weights[name] * value for name, value in terms.items()]).sum().backward()
            earned += [float(terms[REWARD].detach())] if REWARD in terms else []
        optimizer.step()
    return mean.parameters["mean"].detach(), earned[:: settings.updates]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("grpo", {}),
        ("ddpo", {"statistics_from": 16}),
        ("grpo_clamped", {}),
        ("nft", {}),
        ("nft", {"eta": 0.0, "nft_beta": 0.5}),
        ("pairs", {"pair_beta": 20.0}),
    ],
)
def test_the_mean_goes_where_more_is_earned_and_nowhere_else(method, changes, seed):
    mean, earned = learned(method, seed, **changes)
    red, green, blue = mean.flatten(1).mean(1).tolist()
    assert sum(earned[-4:]) / 4 > sum(earned[:4]) / 4 + 0.03
    assert red > 0.2 and blue < -0.2 and abs(green) < 0.5 * min(red, -blue)
