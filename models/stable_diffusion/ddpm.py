"""The noise process of Stable Diffusion: x_t = sqrt(a_t) x0 + sqrt(1 - a_t) noise with a_t = alphas_cumprod[t].

That is Ho et al. 2020 (arXiv:2006.11239), eq. 4. The network predicts the noise e ("epsilon"), or v = sqrt(a_t) e -
sqrt(1 - a_t) x0 ("v_prediction", Salimans & Ho 2022, arXiv:2202.00512, app. D).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import FewShotError
from ..process import Numbers, Size, StepCoefficients, beside, check_steps

TERMINAL = 4.8973451890853435e-08
"""alphas_cumprod of the last step after rescaling: not 0, so that sigma stays finite; ComfyUI has the same value"""


class DDPM:
    """`alphas_cumprod` is (T,) in float32; times are integers in [0, T), and CLEAN where a step ends in clean latents.

    See `process.DiffusionProcess` for the methods. Index CLEAN of each table is clean, so it can be asked as any other.
    """

    CLEAN = -1

    def __init__(self, alphas_cumprod: Tensor, prediction: str = "epsilon"):
        if prediction not in ("epsilon", "v_prediction"):
            raise FewShotError(f"a model that predicts '{prediction}' cannot be used: epsilon or v_prediction can")
        self.alphas_cumprod, self.prediction = alphas_cumprod, prediction
        times = torch.arange(len(alphas_cumprod))
        # Divided on the host, once: a GPU multiplies by a rounded 1 / T, and misses shares that are hit exactly.
        levels = torch.cat([times.double() / len(times), torch.zeros(1, dtype=torch.float64)]).float()
        self.times, self._levels = times.to(alphas_cumprod.device), levels.to(alphas_cumprod.device)
        self._alphas = torch.cat([alphas_cumprod, alphas_cumprod.new_ones(1)])

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], prediction: str | None = None, zero_snr: bool | None = None
    ) -> DDPM:
        """From a diffusers scheduler config; `prediction` and `zero_snr` win over what it says."""
        betas = _betas(config)
        process = cls(torch.cumprod(1 - betas, 0).float(), prediction or config.get("prediction_type", "epsilon"))
        rescale = config.get("rescale_betas_zero_snr", False) if zero_snr is None else zero_snr
        return process.with_zero_terminal_snr() if rescale else process

    def with_zero_terminal_snr(self) -> DDPM:
        """The process whose last step is (all but) pure noise: Lin et al. 2024, arXiv:2305.08891, algorithm 1."""
        roots = self.alphas_cumprod.double().sqrt()
        roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
        alphas = roots.square()
        alphas[-1] = TERMINAL
        return DDPM(alphas.float(), self.prediction)

    def to(self, device: torch.device) -> DDPM:
        return DDPM(self.alphas_cumprod.to(device), self.prediction)

    def draw_times(self, random: Numbers, stream: str, step: int, samples: Sequence[int], size: Size | None) -> Tensor:
        """All timesteps are alike probable, whatever the size."""
        return random.integers(stream, step, samples, len(self))

    def time_at(self, share: float) -> Tensor:
        return torch.tensor(int(len(self) * share))

    def _at(self, t: Tensor) -> Tensor:
        return self._alphas.to(t.device)[t]

    def _roots(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) for times (B,), shaped to multiply `like` (B, ...)."""
        alphas = beside(self._at(t.to(like.device)), like)
        return alphas.sqrt(), (1 - alphas).sqrt()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, spread = self._roots(t, x0)
        return signal * x0 + spread * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._roots(t, x0)
        return signal * noise - spread * x0

    def to_clean(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        signal, spread = self._roots(t, x)
        if self.prediction == "epsilon":
            return (x - spread * prediction) / signal
        return signal * x - spread * prediction

    def to_noise(self, x: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        if self.prediction == "epsilon":
            return prediction
        signal, spread = self._roots(t, x)
        return signal * prediction + spread * x

    def signal(self, t: Tensor) -> Tensor:
        return self._at(t).sqrt()

    def snr(self, t: Tensor) -> Tensor:
        alphas = self._at(t)
        return alphas / (1 - alphas)

    def noise_level(self, t: Tensor) -> Tensor:
        return self._levels.to(t.device)[t]

    def error_ratio(self, t: Tensor) -> Tensor:
        """a_t / (1 - a_t) for the noise, 1 / (1 - a_t) for v."""
        snr = self.snr(t)
        return snr if self.prediction == "epsilon" else snr + 1.0

    def sampling_times(self, steps: int, size: Size | None) -> Tensor:
        check_steps(steps, len(self))
        return torch.tensor([len(self) - 1 - int(i * len(self) / steps) for i in range(steps)] + [self.CLEAN])

    def coefficients(self, t: Tensor, t_next: Tensor, eta: float = 0.0) -> StepCoefficients:
        """DDIM (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16); with eta 1 its noise is the ancestral sampler's.

        From timestep t to p: std^2 = eta^2 (1 - a_p) / (1 - a_t) (1 - a_t / a_p), clean = sqrt(a_p), and noise =
        sqrt(1 - a_p - std^2).
        """
        alphas = self._alphas.cpu().double()
        now, after = alphas[t.cpu()], alphas[t_next.cpu()]
        variance = eta**2 * (1 - after) / (1 - now) * (1 - now / after)
        noise = (1 - after - variance).clamp(min=0).sqrt()
        return StepCoefficients(after.sqrt(), noise, variance.clamp(min=0).sqrt())


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
