"""The adversarial loss in latent space of the few-shot relation report, in a reading that can work.

The report's words: a discriminator tells "the latent features and predicted noise" apart, with z_t minus the prediction
as the generated latents. That is neither a clean latent nor noisy like one, so the discriminator is right at once. Here
the pictures' latents are compared with the predicted clean ones, both noised anew to one level (Wang et al. 2023,
Diffusion-GAN; Sauer et al. 2024, LADD), for timesteps at which the prediction can be trusted.

What is usual elsewhere and not here: the standard deviation over the batch (Karras et al. 2018) as a further channel,
since a sample's loss must not depend on what else is in its pass; and the report's training of the autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from ...core.randomness import Randomness, seed_of
from ...models.conditioning import rows_of
from ...models.process import DiffusionProcess
from ..data.encoded_set import EncodedSet
from ..optim.optimizers import DISCRIMINATOR
from .discriminator import Discriminator

TRUSTED = 0.6  # share of the timesteps at which the prediction of a clean latent is used
RENOISED = 0.3  # share of the timesteps to which both are noised
PENALTY, EVERY = 0.2, 16  # of the gradient at real latents (R1), and how often it is computed
SHIFTED, CUT = 0.125, 0.5  # of the side: how far latents are shifted, and the side of what is cut out of them
RAMP = (0.2, 0.2)  # the share of the training after which the loss comes in, and over which it does
PRETRAINED, HALF = 200, 0.5  # steps that the discriminator learns before, but no more than this share of the training
SURE, WATCHED = 0.95, 100  # right on more than this share of real latents in so many steps, the loss is halved
LAST = 0.6  # share of the training after which, in sequence, only the adversarial loss is left
ADVERSARIAL = "adversarial"


class Adversary:
    """A discriminator and its two losses; `parameters` are trained beside the others, in a group of their own.

    `reals` is what the discriminator is shown as real.

    Each loss reaches its own side only: the discriminator's sees detached predictions, and the generator's sees
    detached weights. `factor` is what the generator's loss is multiplied with: it is halved whenever the discriminator
    was too sure of real latents (as Karras et al. 2020 strengthen augmentation then), and never raised again. Each of
    several processes goes by the samples of its own.
    """

    def __init__(self, reals: EncodedSet, process: DiffusionProcess, seed: int):
        self.reals, self.process = reals, process
        device, shape = process.times.device, reals.mean.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, DISCRIMINATOR))
            self.network = Discriminator(shape[0], shape[-1]).to(device)
        self.random = Randomness(seed, device)
        self.factor, self.right, self.counted = torch.ones((), device=device), *torch.zeros(2, device=device)
        self.begun, self.before = -1, self._numbers()

    def begin(self, step: int) -> None:
        """Halve the loss where the last steps ask for it. Called before each step's first pass."""
        if step and step % WATCHED == 0:
            self.factor = torch.where(self.right > SURE * self.counted, self.factor / 2, self.factor)
            self.right, self.counted = torch.zeros_like(self.right), torch.zeros_like(self.counted)
        self.begun, self.before = step, self._numbers()

    def state(self, step: int) -> dict[str, Tensor]:
        """What is known after `step` whole steps; see `loop.Memory`."""
        return self.before if step == self.begun else self._numbers()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        device = self.factor.device
        self.factor, self.right, self.counted = (state[name].to(device) for name in ("factor", "right", "seen"))

    def _numbers(self) -> dict[str, Tensor]:
        return {"factor": self.factor.clone(), "right": self.right.clone(), "seen": self.counted.clone()}

    def watch(self, of_true: Tensor) -> None:
        """Count what the discriminator says of real latents (n, places)."""
        self.right = self.right + (of_true.detach().mean(1) > 0).sum()
        self.counted = self.counted + len(of_true)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {f"{DISCRIMINATOR}.{name}": p for name, p in self.network.named_parameters()}

    def draw_real(self, step: int, samples: Sequence[int], batch_size: int) -> Tensor:
        """Latents of real pictures (n, C, h, w), drawn apart from those that are noised."""
        first = step * batch_size
        indices = [self.random.choose("adversarial/picture", first + i, self.reals.weights) for i in samples]
        mean, std = rows_of(self.reals.mean, indices), rows_of(self.reals.std, indices)
        return mean + std * self.random.normal("adversarial/latent", step, samples, mean.shape[1:])

    def losses(
        self, noisy: Tensor, times: Tensor, prediction: Tensor, real: Tensor, step: int, samples: Sequence[int]
    ) -> dict[str, Tensor]:
        """Both losses of each sample (n,).

        Args:
            noisy, prediction: z_t (n, C, h, w) at `times` (n,), and what the denoiser said of it.
            real: latents of pictures (n, C, h, w).
        """
        clean = self.process.to_clean(noisy, prediction, times)
        lowest = max(1, int(RENOISED * len(self.process)))
        levels = self.process.times[self.random.integers("adversarial/level", step, samples, lowest)]
        fake, true = (self._noised(x, levels, side, step, samples) for x, side in ((clean, "fake"), (real, "real")))
        trusted = self.process.signal(times).square() * (self.process.noise_level(times) < TRUSTED)
        weights = {name: p.detach() for name, p in self.network.named_parameters()}
        judged = functional_call(self.network, weights, (self._changed(fake, step, samples), levels)).mean(1)
        true, fake = (self._changed(x, step, samples) for x in (true, fake.detach()))
        of_true, of_fake = self.network(true, levels), self.network(fake, levels)
        self.watch(of_true)
        discriminator_loss = F.relu(1 - of_true).mean(1) + (trusted > 0) * F.relu(1 + of_fake).mean(1)
        if step % EVERY == 0:
            discriminator_loss = discriminator_loss + EVERY * gradient_penalty(self.network, true, levels)
        return {ADVERSARIAL: -trusted * judged, DISCRIMINATOR: discriminator_loss}

    def _noised(self, clean: Tensor, levels: Tensor, side: str, step: int, samples: Sequence[int]) -> Tensor:
        return self.process.add_noise(
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

    Jointly the adversarial loss comes in when the discriminator has learned for a while; in sequence the others stop
    where it begins.
    """
    if order == "sequence":
        return (1.0, 0.0) if step / steps < LAST else (0.0, 1.0)
    low = min(max(RAMP[0] * steps, PRETRAINED), HALF * steps)
    return 1.0, min(max((step - low) / (RAMP[1] * steps), 0.0), 1.0)
