"""The passes of a step, each with its backward pass in a context of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch


def differentiable_passes(
    passes: Iterator[Mapping[str, torch.Tensor]], differentiable: Callable[[], AbstractContextManager[None]]
) -> Iterator[Mapping[str, torch.Tensor]]:
    """Each pass, computed and given within a context of its own, in which its backward pass runs too."""
    terms: Mapping[str, torch.Tensor] | None = {}
    while terms is not None:
        with differentiable():
            terms = next(passes, None)
            if terms is not None:
                yield terms
