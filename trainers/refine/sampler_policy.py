"""The sampler as a policy: DDIM with noise (Song et al. 2021, eq. 12 and 16) takes Gaussian steps, whose probability a
policy gradient needs (Black et al. 2023, DDPO; Fan et al. 2023, DPOK).

With a = alphas_cumprod, from timestep t to the next visited one p:
    sigma^2 = eta^2 (1 - a_p) / (1 - a_t) (1 - a_t / a_p)
    mu      = sqrt(a_p) x0 + sqrt(1 - a_p - sigma^2) e,     z_p = mu + sigma n
where x0 and e are what the denoiser's prediction says. The last step ends in clean latents: sigma is 0 there, and it
has no density.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ...models.sampling import simple_timesteps
from ...models.schedule import NoiseSchedule

LEAST_STD = 1e-3
"""a step whose noise is smaller than this is not trained: rounding would decide its probability"""


@dataclass(frozen=True)
class Gaussian:
    """The distribution of a step's outcome: `mean` (B, C, h, w), and `std` (B,), the same in all places; fp32."""

    mean: Tensor
    std: Tensor

    def _spread(self) -> Tensor:
        return self.std.view(-1, *[1] * (self.mean.dim() - 1))

    def draw(self, noise: Tensor) -> Tensor:
        """The outcome (B, C, h, w) for standard normal `noise`."""
        return self.mean + self._spread() * noise

    def log_prob(self, outcome: Tensor) -> Tensor:
        """Log-density (B,) per latent number: the mean over C, h, w, as DDPO, DPOK and Flow-GRPO take it."""
        squared = (outcome - self.mean).square().flatten(1).mean(1)
        return -squared / (2 * self.std.square()) - self.std.log() - 0.5 * math.log(2 * math.pi)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) (B,) per latent number, exact for two steps of one std: mean squared distance / 2 std^2."""
        return (self.mean - other.mean).square().flatten(1).mean(1) / (2 * self.std.square())


class DdimPolicy:
    """The steps of DDIM on `steps` evenly spaced timesteps.

    Args:
        eta: how much of the ancestral sampler's noise each step has; 1 is DDPM's.
            With 0 it is deterministic, and has no probabilities.
        skip_last: steps at the end that are drawn and not trained; there little noise makes ratios large.
        trained: whether steps have to be left whose probability can be trained.

    Raises:
        FewShotError: no step is left to train.
    """

    def __init__(self, schedule: NoiseSchedule, steps: int, eta: float = 1.0, skip_last: int = 2, trained: bool = True):
        self.schedule, self.eta = schedule, eta
        self.timesteps = simple_timesteps(steps, len(schedule))
        alphas = schedule.alphas_cumprod.cpu().double()
        now = alphas[self.timesteps]
        after = torch.cat([now[1:], torch.ones(1, dtype=torch.float64)])
        after[:-1] = alphas[self.timesteps[1:]]
        variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
        self.std = variance.clamp(min=0).sqrt().float()
        self._signal = after.sqrt().float()
        self._direction = (1 - after - variance).clamp(min=0).sqrt().float()
        last = steps - skip_last
        self.trainable = tuple(i for i, std in enumerate(self.std.tolist()) if std >= LEAST_STD and i < last)
        if trained and not self.trainable:
            raise FewShotError(
                f"none of {steps} sampling steps with eta {eta:g} can be trained, {skip_last} of which are left out at "
                "the end: choose more steps, or an eta near 1"
            )

    def __len__(self) -> int:
        return len(self.timesteps)

    def times(self, places: Tensor) -> Tensor:
        """The timesteps (B,) of steps at `places` (B,), counted from the first."""
        return torch.tensor(self.timesteps, device=places.device)[places]

    def step(self, prediction: Tensor, zt: Tensor, places: Tensor) -> Gaussian:
        """Where the steps at `places` (B,) lead from `zt` (B, C, h, w) with the denoiser's prediction there."""
        times = self.times(places)
        clean = self.schedule.to_x0(prediction, zt, times)
        noise = self.schedule.to_epsilon(prediction, zt, times)
        shape = (-1, *[1] * (zt.dim() - 1))
        signal, direction = (table.to(zt.device)[places].view(shape) for table in (self._signal, self._direction))
        return Gaussian(signal * clean + direction * noise, self.std.to(zt.device)[places])
