"""The noise schedule of a latent diffusion model, and what its prediction says.

With a_t = alphas_cumprod[t] the forward process is z_t = sqrt(a_t) z_0 + sqrt(1 - a_t) e (Ho et al. 2020, eq. 4).
The network predicts e ("epsilon") or v = sqrt(a_t) e - sqrt(1 - a_t) z_0 ("v_prediction", Salimans & Ho 2022, app. D).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import FewShotError

TERMINAL = 4.8973451890853435e-08
"""alphas_cumprod of the last step after rescaling: not 0, so that sigma stays finite; ComfyUI has the same value"""


@dataclass(frozen=True)
class NoiseSchedule:
    """`alphas_cumprod` is (T,) in float32; timesteps are integers in [0, T)."""

    alphas_cumprod: Tensor
    prediction: str = "epsilon"

    def __post_init__(self):
        if self.prediction not in ("epsilon", "v_prediction"):
            raise FewShotError(f"a model that predicts '{self.prediction}' cannot be used: epsilon or v_prediction can")

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], prediction: str | None = None, zero_snr: bool | None = None
    ) -> NoiseSchedule:
        """From a diffusers scheduler config; `prediction` and `zero_snr` win over what it says."""
        betas = _betas(config)
        schedule = cls(torch.cumprod(1 - betas, 0).float(), prediction or config.get("prediction_type", "epsilon"))
        rescale = config.get("rescale_betas_zero_snr", False) if zero_snr is None else zero_snr
        return schedule.with_zero_terminal_snr() if rescale else schedule

    def with_zero_terminal_snr(self) -> NoiseSchedule:
        """The schedule whose last step is (all but) pure noise: Lin et al. 2024, algorithm 1."""
        roots = self.alphas_cumprod.double().sqrt()
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        alphas = roots.square()
        alphas[-1] = TERMINAL
        return NoiseSchedule(alphas.float(), self.prediction)

    def to(self, device: torch.device) -> NoiseSchedule:
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction)

    def _roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) for timesteps (B,), shaped to multiply `like` (B, ...)."""
        alphas = self.alphas_cumprod.to(like.device)[t.to(like.device)].view(-1, *[1] * (like.dim() - 1))
        return alphas.sqrt(), (1 - alphas).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio a_t / (1 - a_t) at timesteps `t`, any shape."""
        alphas = self.alphas_cumprod.to(t.device)[t]
        return alphas / (1 - alphas)

    def add_noise(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """z_t for latents and noise (B, C, h, w) at timesteps (B,)."""
        signal, spread = self._roots(t, z0)
        return signal * z0 + spread * noise

    def target(self, z0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict: the noise, or the velocity."""
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._roots(t, z0)
        return signal * noise - spread * z0

    def to_x0(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """The clean latents that a prediction at (z_t, t) implies."""
        signal, spread = self._roots(t, zt)
        if self.prediction == "epsilon":
            return (zt - spread * prediction) / signal
        return signal * zt - spread * prediction

    def to_epsilon(self, prediction: Tensor, zt: Tensor, t: Tensor) -> Tensor:
        """The noise that a prediction at (z_t, t) implies."""
        if self.prediction == "epsilon":
            return prediction
        signal, spread = self._roots(t, zt)
        return signal * prediction + spread * zt


def _betas(config: Mapping[str, Any]) -> Tensor:
    """(T,) in float64. "scaled_linear" is linear in sqrt(beta) (Rombach et al. 2022)."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    kind = config.get("beta_schedule", "linear")
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    steps = config.get("num_train_timesteps", 1000)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    raise FewShotError(f"the beta schedule '{kind}' is not supported: 'scaled_linear' and 'linear' are")
