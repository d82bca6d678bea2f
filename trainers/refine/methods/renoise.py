"""What methods share that learn from a round's pictures, noised anew, and not from the way they were drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..step import RefiningStep, Round


@dataclass(frozen=True)
class Noised:
    """Pictures of a round, and the same noised: all (n, C, h, w) but `times` (n,)."""

    clean: Tensor
    noise: Tensor
    latents: Tensor
    times: Tensor


class NoisedStep(RefiningStep):
    """A step whose rows are (sample, number of the noising)."""

    def noised(self, round: Round, rows: Sequence[tuple[int, int]]) -> Noised:
        """The pictures of `rows`, noised at random timesteps: functions of (seed, round, sample, number)."""
        return self.noised_as(round, torch.stack([round.way.at(i)[-1] for i, _ in rows]), rows)

    def noised_as(self, round: Round, pictures: Tensor, rows: Sequence[tuple[int, int]]) -> Noised:
        """`pictures` (n, C, h, w) with the timesteps and the noise of `rows`."""
        process, clean = self.painter.model.process, pictures.to(self.device)
        times, noise = [], []
        for i, n in rows:
            times.append(process.draw_times(self.random, f"refine/timestep/{n}", round.number, [i], self.painter.size))
            noise.append(self.random.normal(f"refine/noising/{n}", round.number, [i], clean.shape[1:]))
        t, e = torch.cat(times), torch.cat(noise)
        return Noised(clean, e, process.add_noise(clean, e, t), t)

    def predicted(self, round: Round, rows: Sequence[tuple[int, int]], seen: Noised) -> Tensor:
        """The denoiser's prediction (n, C, h, w) with the prompts of `rows`, as it is now."""
        return self.painter.told_prediction(seen.latents, seen.times, [round.prompts[i] for i, _ in rows])
