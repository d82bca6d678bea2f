"""Random numbers as pure functions of (seed, stream, step, global sample index).

No number depends on its place in a batch or on the process that draws it, so micro-batches and several processes draw
what one batch in one process draws, and there is no generator state to save. Each loss term draws from streams of its
own, so that leaving a term out changes no other term's numbers. The numbers are drawn on the device that uses them;
kinds of devices differ in them.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections.abc import Sequence

import torch

GOLDEN = 0.6180339887498949  # (sqrt(5) - 1) / 2


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that is a hash of `parts`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Randomness:
    """The numbers of one run. `samples` are always global sample indices within the step."""

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.seed = seed
        self.device = torch.device(device)
        self._generator = torch.Generator(self.device)

    def _at(self, stream: str, step: int, sample: int) -> torch.Generator:
        return self._generator.manual_seed(seed_of(self.seed, stream, step, sample))

    def normal(self, stream: str, step: int, samples: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
        """Standard normal numbers (len(samples), *shape), fp32."""
        drawn = [torch.randn(*shape, generator=self._at(stream, step, i), device=self.device) for i in samples]
        return torch.stack(drawn)

    def uniform(self, stream: str, step: int, samples: Sequence[int]) -> torch.Tensor:
        """Numbers (len(samples),) in [0, 1), fp32."""
        drawn = [torch.rand(1, generator=self._at(stream, step, i), device=self.device) for i in samples]
        return torch.cat(drawn)

    def integers(self, stream: str, step: int, samples: Sequence[int], high: int) -> torch.Tensor:
        """Whole numbers (len(samples),) in [0, high), int64."""
        drawn = [torch.randint(high, (1,), generator=self._at(stream, step, i), device=self.device) for i in samples]
        return torch.cat(drawn)

    def happens(self, stream: str, step: int, sample: int, probability: float) -> bool:
        """Whether something of this probability happens; drawn on the host, since it decides what is computed."""
        return seed_of(self.seed, stream, step, sample) / 2**63 < probability

    def subset(self, stream: str, step: int, sample: int, of: int, count: int) -> list[int]:
        """`count` different ones of the numbers 0 to `of` - 1, in a random order; drawn on the host."""
        return sorted(range(of), key=lambda i: seed_of(self.seed, stream, step, sample, i))[:count]

    def choose(self, stream: str, draw: int, weights: Sequence[float]) -> int:
        """The `draw`-th choice among len(weights) things, evenly spread: no long runs, no thing forgotten.

        A Weyl sequence of the golden ratio from a seeded start, mapped through the cumulative weights. It is computed
        on the host: the choice is an index, no tensor.
        """
        start = seed_of(self.seed, stream, "start") / 2**63
        place = (start + draw * GOLDEN) % 1.0
        limits = list(itertools.accumulate(weights))
        return min(bisect.bisect_right(limits, place * limits[-1]), len(weights) - 1)
