"""How pictures become noise and back: the one thing that trainers and samplers know of a model's diffusion process.

Every process is linear, x_t = signal(t) x0 + spread(t) noise. `ddpm.DDPM` has integer times and predicts the noise or
v; `rectified_flow.RectifiedFlow` has sigmas for times and predicts a velocity.

Latents are (B, ...) of any rank, times (B,), or (1,) where all rows share one. Times may lie on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..core.errors import FewShotError

Size = tuple[int, int]
"""width and height of a picture in pixels"""


class Numbers(Protocol):
    """Random numbers as functions of (seed, stream, step, sample): `trainers.randomness.Randomness`."""

    def normal(self, stream: str, step: int, samples: Sequence[int], shape: Sequence[int]) -> Tensor: ...

    def integers(self, stream: str, step: int, samples: Sequence[int], high: int) -> Tensor: ...


@dataclass(frozen=True)
class Gaussian:
    """The distribution of a step's outcome: `mean` (B, ...), and `std` (B,) or (1,), the same in all places; fp32."""

    mean: Tensor
    std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        """The outcome (B, ...) for standard normal `noise`."""
        return self.mean + beside(self.std, self.mean) * noise

    def log_prob(self, outcome: Tensor) -> Tensor:
        """Log-density (B,) per latent number: the mean over all but rows, as DDPO, DPOK and Flow-GRPO take it."""
        squared = (outcome - self.mean).square().flatten(1).mean(1)
        return -squared / (2 * self.std.square()) - self.std.log() - 0.5 * math.log(2 * math.pi)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other) (B,) per latent number, exact for two steps of one std: mean squared distance / 2 std^2."""
        return (self.mean - other.mean).square().flatten(1).mean(1) / (2 * self.std.square())


@dataclass(frozen=True)
class StepCoefficients:
    """Steps x_next = clean * x0_hat + noise * noise_hat + std * fresh noise; each (n,), float64 on the host.

    A table of steps goes to a device once, and rows of a batch `take` theirs from it, each its own.
    """

    clean: Tensor
    noise: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.clean)

    def to(self, device: torch.device) -> StepCoefficients:
        """In float32 on `device`; rounded on the host, since some devices have no float64."""
        return StepCoefficients(*(part.float().to(device) for part in (self.clean, self.noise, self.std)))

    def take(self, places: Tensor | slice) -> StepCoefficients:
        """The steps at `places`."""
        return StepCoefficients(self.clean[places], self.noise[places], self.std[places])


class DiffusionProcess(Protocol):
    """What the engine asks; see the module for shapes."""

    @property
    def prediction(self) -> str:
        """What the network predicts: "epsilon", "v_prediction" or "velocity"."""
        ...

    @property
    def times(self) -> Tensor:
        """All times (N,), ascending from almost clean to pure noise."""
        ...

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> DiffusionProcess:
        """The same with its tables on `device`."""
        ...

    def draw_times(self, random: Numbers, stream: str, step: int, samples: Sequence[int], size: Size | None) -> Tensor:
        """Training times (n,) of the samples, whose pictures have `size`; None where the process asks for no size."""
        ...

    def time_at(self, share: float) -> Tensor:
        """The time () on the host at a share in [0, 1) of the way from clean to noise, as `noise_level` tells it."""
        ...

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for clean latents and noise (B, ...) at times (B,)."""
        ...

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict (B, ...)."""
        ...

    def to_clean(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents x0_hat (B, ...) that a prediction at (x_t, t) implies."""
        ...

    def to_noise(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The noise (B, ...) that a prediction at (x_t, t) implies."""
        ...

    def signal(self, t: Tensor) -> Tensor:
        """What x0 is multiplied with at times of any shape; float32 like the next three."""
        ...

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio signal^2 / spread^2."""
        ...

    def noise_level(self, t: Tensor) -> Tensor:
        """How far from clean to noise, in [0, 1]: the share of the timesteps, or sigma.

        In float32, which every device has; compared with a number this is rounded alike, so `level >= 0.57` holds for
        timestep 570 of 1000.
        """
        ...

    def error_ratio(self, t: Tensor) -> Tensor:
        """|error of the prediction|^2 / |error of x0_hat|^2.

        Loss weights that are told for x0 are divided by it: min-SNR's is min(snr, gamma) / error_ratio (Hang et al.
        2023, arXiv:2303.09556, section 3.4).
        """
        ...

    def sampling_times(self, steps: int, size: Size | None) -> Tensor:
        """Times (steps + 1,) on the host: those of ComfyUI's "simple" scheduler from noise down, and clean."""
        ...

    def coefficients(self, t: Tensor, t_next: Tensor, eta: float = 0.0) -> StepCoefficients:
        """The steps from times (n,) to times (n,), with a share `eta` in [0, 1] of noise; 0 is deterministic."""
        ...


def gaussian(
    process: DiffusionProcess, x: Tensor, prediction: Tensor, t: Tensor, coefficients: StepCoefficients
) -> Gaussian:
    """Where steps with these coefficients, (B,) or (1,), lead from `x` (B, ...) at times (B,)."""
    there = coefficients.to(x.device)
    clean, noise = process.to_clean(x, prediction, t), process.to_noise(x, prediction, t)
    return Gaussian(beside(there.clean, x) * clean + beside(there.noise, x) * noise, there.std)


def step(
    process: DiffusionProcess, x: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor, eta: float = 0.0
) -> Gaussian:
    """One step from `x` (B, ...) at times (B,) to times (B,). Times on the host keep a device from waiting for it."""
    return gaussian(process, x, prediction, t, process.coefficients(t, t_next, eta))


def beside(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,) on the device of `like` (B, ...), shaped to multiply it."""
    return values.to(like.device).view(-1, *[1] * (like.dim() - 1))


def check_steps(steps: int, most: int) -> None:
    """Raises FewShotError where a sampler cannot take so many steps."""
    if not 1 <= steps <= most:
        raise FewShotError(f"{steps} sampling steps were asked for: choose 1 to {most}")
