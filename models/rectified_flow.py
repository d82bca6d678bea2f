"""Rectified flow: straight paths x_sigma = (1 - sigma) x0 + sigma noise, sigma in [0, 1].

Liu et al. 2023 (arXiv:2209.03003); Esser et al. 2024 (arXiv:2403.03206), eq. 13. The network predicts the velocity
dx/dsigma = noise - x0, so x0 = x - sigma v and noise = x + (1 - sigma) v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..core.errors import FewShotError
from .process import Numbers, Size, StepCoefficients, beside, check_steps


class RectifiedFlow:
    """Times are sigmas in float32, and CLEAN is 0. See `process.DiffusionProcess` for the methods.

    Args:
        shift: the factor s of sigma = s u / (1 + (s - 1) u) (Esser et al. 2024, eq. 23), or what gives it for a size.
        mean, std: of logit(u) in training (logit-normal, Esser et al. 2024, eq. 19); a greater mean is noisier.
        count: how many sigmas a sampler chooses from: 1000 in ComfyUI's ModelSamplingDiscreteFlow, 10 000 in its
            ModelSamplingFlux, whose "shift" is log s.

    `times` are shifted by a number; where the shift is by size they are the plain grid. A shift adds log s to logit(u):
    to train with another one, s', than pictures are drawn with, `mean` is log(s' / s).
    """

    CLEAN = 0.0
    prediction = "velocity"

    def __init__(
        self, shift: float | Callable[[Size], float] = 1.0, mean: float = 0.0, std: float = 1.0, count: int = 1000
    ):
        self.shift, self.mean, self.std, self.count = shift, mean, std, count
        self.times = self._grid(1.0 if callable(shift) else shift)

    def __len__(self) -> int:
        return self.count

    def to(self, device: torch.device) -> RectifiedFlow:
        moved = RectifiedFlow(self.shift, self.mean, self.std, self.count)
        moved.times = moved.times.to(device)
        return moved

    def _grid(self, factor: float) -> Tensor:
        return shifted(torch.arange(1, self.count + 1) / self.count, factor)

    def _factor(self, size: Size | None) -> float:
        if not callable(self.shift):
            return self.shift
        if size is None:
            raise FewShotError("this model's noise depends on a picture's size, and no size was given")
        return self.shift(size)

    def draw_times(self, random: Numbers, stream: str, step: int, samples: Sequence[int], size: Size | None) -> Tensor:
        """Logit-normal sigmas, shifted for `size`."""
        normal = random.normal(stream, step, samples, (1,)).flatten()
        return shifted(torch.sigmoid(self.mean + self.std * normal), self._factor(size))

    def time_at(self, share: float) -> Tensor:
        return torch.tensor(float(share))

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        sigma = beside(t, x0)
        return (1 - sigma) * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def to_clean(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return x - beside(t, x) * prediction

    def to_noise(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        return x + (1 - beside(t, x)) * prediction

    def signal(self, t: Tensor) -> Tensor:
        return 1 - t

    def snr(self, t: Tensor) -> Tensor:
        return ((1 - t) / t).square()

    def noise_level(self, t: Tensor) -> Tensor:
        return t

    def error_ratio(self, t: Tensor) -> Tensor:
        """1 / sigma^2, since x0_hat = x - sigma v."""
        return 1 / t.square()

    def sampling_times(self, steps: int, size: Size | None) -> Tensor:
        check_steps(steps, self.count)
        stride = self.count / steps
        places = [self.count - 1 - int(i * stride) for i in range(steps)]
        return torch.cat([self._grid(self._factor(size))[places], torch.tensor([self.CLEAN])])

    def coefficients(self, t: Tensor, t_next: Tensor, eta: float = 0.0) -> StepCoefficients:
        """Coefficients-Preserving Sampling (Wang & Yu 2025, arXiv:2509.05952), whatever the sigma `t` it starts from.

        To sigma s: x' = (1 - s) x0_hat + s cos(eta pi / 2) noise_hat + s sin(eta pi / 2) fresh noise: x' has as much
        noise as a latent at s has. With eta 0 it is Euler's step x + (s - t) v.
        """
        after, angle = t_next.cpu().double(), eta * math.pi / 2
        return StepCoefficients(1 - after, after * math.cos(angle), after * math.sin(angle))


def shifted(u: Tensor, factor: float) -> Tensor:
    """Sigmas s u / (1 + (s - 1) u) for u in [0, 1]: nearer to noise for a factor s above 1."""
    return u if factor == 1.0 else factor * u / (1 + (factor - 1) * u)
