"""The adversarial loss in latent space of the few-shot relation report, in a reading that can work and literally.

The report's words: a discriminator tells "the latent features and predicted noise" apart, with z_t minus the prediction
as the generated latents. That is neither a clean latent nor noisy like one, so the discriminator is right at once. The
sensible reading compares the pictures' latents with the predicted clean ones, both noised anew to one level (Wang et
al. 2023, Diffusion-GAN; Sauer et al. 2024, LADD), for timesteps at which the prediction can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ..models.discriminator import Discriminator
from ..models.schedule import NoiseSchedule
from .optimisation import DISCRIMINATOR
from .randomness import Randomness, seed_of

TRUSTED = 0.6  # share of the timesteps at which the prediction of a clean latent is used
RENOISED = 0.3  # share of the timesteps to which both are noised
PENALTY, EVERY = 0.2, 16  # of the gradient at real latents (R1), and how often it is computed
SHIFTED, CUT = 0.125, 0.5  # of the side: how far latents are shifted, and the side of what is cut out of them
RAMP = (0.2, 0.4)  # shares of the training between which the loss comes in
LAST = 0.6  # share of the training after which, in sequence, only the adversarial loss is left
ADVERSARIAL = "adversarial"


class Adversary:
    """A discriminator and its two losses; `parameters` are trained beside the others, in a group of their own.

    `reading` is "sensible" or "literal".

    Each loss reaches its own side only: the discriminator's sees detached predictions, and the generator's sees
    detached weights.
    """

    def __init__(self, reading: str, shape: Sequence[int], schedule: NoiseSchedule, seed: int):
        self.reading, self.schedule = reading, schedule
        device = schedule.alphas_cumprod.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, DISCRIMINATOR))
            self.network = Discriminator(shape[0], shape[-1]).to(device)
        self.random = Randomness(seed, device)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {f"{DISCRIMINATOR}.{name}": p for name, p in self.network.named_parameters()}

    def losses(
        self, noisy: Tensor, times: Tensor, prediction: Tensor, real: Tensor, step: int, samples: Sequence[int]
    ) -> dict[str, Tensor]:
        """Both losses of each sample (n,).

        Args:
            noisy, prediction: z_t (n, C, h, w) at `times` (n,), and what the denoiser said of it.
            real: latents of pictures (n, C, h, w).
        """
        if self.reading == "literal":
            return self._literal(noisy - prediction, real)
        clean = self.schedule.to_x0(prediction, noisy, times)
        levels = self.random.integers("adversarial/level", step, samples, max(1, int(RENOISED * len(self.schedule))))
        fake, true = (self._noised(x, levels, side, step, samples) for x, side in ((clean, "fake"), (real, "real")))
        trusted = self.schedule.alphas_cumprod[times] * (times < TRUSTED * len(self.schedule))
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        judged = functional_call(self.network, weights, (self._changed(fake, step, samples), levels)).mean(1)
        true, fake = (self._changed(x, step, samples) for x in (true, fake.detach()))
        of_true, of_fake = self.network(true, levels), self.network(fake, levels)
        told = F.relu(1 - of_true).mean(1) + (trusted > 0) * F.relu(1 + of_fake).mean(1)
        if step % EVERY == 0:
            told = told + EVERY * gradient_penalty(self.network, true, levels)
        return {ADVERSARIAL: -trusted * judged, DISCRIMINATOR: told}

    def _literal(self, fake: Tensor, real: Tensor) -> dict[str, Tensor]:
        levels = torch.zeros(len(real), dtype=torch.long, device=real.device)
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        judged = functional_call(self.network, weights, (fake, levels))
        of_true, of_fake = self.network(real, levels), self.network(fake.detach(), levels)
        told = (F.softplus(-of_true) + F.softplus(of_fake)).mean(1)
        return {ADVERSARIAL: F.softplus(-judged).mean(1), DISCRIMINATOR: told}

    def _noised(self, clean: Tensor, levels: Tensor, side: str, step: int, samples: Sequence[int]) -> Tensor:
        return self.schedule.add_noise(
            clean, self.random.normal(f"adversarial/{side}", step, samples, clean.shape[1:]), levels
        )

    def _changed(self, latents: Tensor, step: int, samples: Sequence[int]) -> Tensor:
        """Shifted, and a square cut out, the same for real and fake (Zhao et al. 2020, DiffAugment)."""
        side = latents.shape[-1]
        rows = []
        for row, sample in zip(latents, samples, strict=True):
            down, right, top, left = (
                seed_of(self.random.seed, "adversarial/change", step, sample, n) / 2**63 for n in range(4)
            )
            most = round(SHIFTED * side)
            moves = [round((2 * share - 1) * most) for share in (down, right)]
            rows.append(_with_hole(shifted(row, *moves), round(CUT * side), top, left))
        return torch.stack(rows)


def shifted(latents: Tensor, down: int, right: int) -> Tensor:
    """Latents (C, h, w) moved by whole places; zero where nothing is left."""
    height, width = latents.shape[-2:]
    padded = F.pad(latents, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)))
    top, left = max(-down, 0), max(-right, 0)
    return padded[..., top : top + height, left : left + width]


def _with_hole(latents: Tensor, side: int, top: float, left: float) -> Tensor:
    """Zero in a square of `side`, whose corner lies at these shares of the room there is."""
    height, width = latents.shape[-2:]
    y, x = round(top * (height - side)), round(left * (width - side))
    kept = torch.ones(height, width, device=latents.device)
    kept[y : y + side, x : x + side] = 0
    return latents * kept


def gradient_penalty(network: torch.nn.Module, real: Tensor, levels: Tensor) -> Tensor:
    """R1 of each sample (n,): PENALTY / 2 * |d D / d real|^2 (Mescheder et al. 2018, eq. 9)."""
    real = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(network(real, levels).mean(1).sum(), real, create_graph=True)
    return PENALTY / 2 * slope.square().flatten(1).sum(1)


def factors(order: str, step: int, steps: int) -> tuple[float, float]:
    """What the other losses and the adversarial one are multiplied with at `step` of `steps`; joint or in sequence.

    Jointly the adversarial loss comes in between two shares of the training; in sequence the others stop where it
    begins.
    """
    gone = step / steps
    if order == "sequence":
        return (1.0, 0.0) if gone < LAST else (0.0, 1.0)
    low, high = RAMP
    return 1.0, min(max((gone - low) / (high - low), 0.0), 1.0)
