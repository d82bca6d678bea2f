"""What methods share that learn from a round's pictures, noised anew, and not from the way they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..step import RefiningStep, Rollout


@dataclass(frozen=True)
class Noised:
    """Pictures of a round, and the same noised: all (n, C, h, w) but `times` (n,)."""

    clean: Tensor
    noise: Tensor
    latents: Tensor
    times: Tensor


class NoisedStep(RefiningStep):
    """A step whose rows are (sample, number of the noising)."""

    def noised(self, rollout: Rollout, rows: Sequence[tuple[int, int]]) -> Noised:
        """The pictures of `rows`, noised at random timesteps: functions of (seed, round, sample, number)."""
        return self.noised_as(rollout, torch.stack([rollout.trajectory.at(i)[-1] for i, _ in rows]), rows)

    def noised_as(self, rollout: Rollout, pictures: Tensor, rows: Sequence[tuple[int, int]]) -> Noised:
        """`pictures` (n, C, h, w) with the timesteps and the noise of `rows`."""
        process, clean = self.sampler.model.process, pictures.to(self.device)
        times, noise = [], []
        for i, n in rows:
            times.append(
                process.draw_times(self.random, f"refine/timestep/{n}", rollout.number, [i], self.sampler.size)
            )
            noise.append(self.random.normal(f"refine/noising/{n}", rollout.number, [i], clean.shape[1:]))
        t, e = torch.cat(times), torch.cat(noise)
        return Noised(clean, e, process.add_noise(clean, e, t), t)

    def predicted(self, rollout: Rollout, rows: Sequence[tuple[int, int]], noised: Noised) -> Tensor:
        """The denoiser's prediction (n, C, h, w) with the prompts of `rows`, as it is now."""
        return self.sampler.conditional_prediction(noised.latents, noised.times, [rollout.prompts[i] for i, _ in rows])
