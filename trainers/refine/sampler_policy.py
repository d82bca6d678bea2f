"""The sampler as a policy: its steps are Gaussian, and a policy gradient needs their probability.

DDPO (Black et al. 2023) and DPOK (Fan et al. 2023) take DDIM's steps with noise, Flow-GRPO (Liu et al. 2025) those of a
flow; which they are is the matter of the model's process (`process.DiffusionProcess.coefficients`). The last step ends
in clean latents: it has no noise, and no density.
"""

from __future__ import annotations

from torch import Tensor

from ...core.errors import FewShotError
from ...models.process import DiffusionProcess, Gaussian, Size, gaussian

# A step whose noise is smaller than this is not trained: rounding would decide its probability.
LEAST_STD = 1e-3


class SamplerPolicy:
    """The steps of a sampler of `steps` steps for pictures of `size`.

    Args:
        eta: how much noise each step has, from 0 to 1; with 0 it is deterministic, and has no probabilities.
        skip_last: steps at the end that are drawn and not trained; there little noise makes ratios large.
        trained: whether steps have to be left whose probability can be trained.

    Raises:
        FewShotError: no step is left to train, or the process has fewer steps.
    """

    def __init__(
        self,
        process: DiffusionProcess,
        steps: int,
        size: Size | None = None,
        eta: float = 1.0,
        skip_last: int = 2,
        trained: bool = True,
    ):
        self.process, self.eta = process, eta
        self.timesteps = process.sampling_times(steps, size)
        self.coefficients = process.coefficients(self.timesteps[:-1], self.timesteps[1:], eta)
        self.std = self.coefficients.std.float()
        last = steps - skip_last
        self.trainable = tuple(i for i, std in enumerate(self.std.tolist()) if std >= LEAST_STD and i < last)
        if trained and not self.trainable:
            raise FewShotError(
                f"none of {steps} sampling steps with eta {eta:g} can be trained, {skip_last} of which are left out at "
                "the end: choose more steps, or an eta near 1"
            )

    def __len__(self) -> int:
        return len(self.std)

    def times(self, places: Tensor) -> Tensor:
        """The times (B,) of steps at `places` (B,), counted from the first."""
        return self.timesteps.to(places.device)[places]

    def step(self, prediction: Tensor, x: Tensor, places: Tensor) -> Gaussian:
        """Where the steps at `places` (B,) lead from latents `x` (B, ...) with the model's prediction there."""
        rows = self.coefficients.to(x.device).take(places.to(x.device))
        return gaussian(self.process, x, prediction, self.times(places), rows)
