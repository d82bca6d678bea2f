"""Adapters active at noisy timesteps only, where an image's layout is decided.

Their low-rank pairs are not merged into weights but computed separately, and gated for each row of a batch by its own
timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from ...core.errors import FewShotError
from ...core.values import Factor, LowRank
from ..process import beside
from ..public_names import in_denoiser

if TYPE_CHECKING:
    from ..contract import DiffusionModel


class NoiseGate:
    """Which rows of the denoiser's call are noisy enough, from `start` on; told by the model before each call."""

    def __init__(self, model: DiffusionModel, start: float):
        self._listeners, self._start = model.before_predict, start
        self._noisy: Tensor | None = None
        self._listeners.append(self._take)

    def _take(self, levels: Tensor) -> None:
        self._noisy = levels >= self._start

    def rows(self, like: Tensor) -> Tensor:
        """1 for noisy rows, else 0: (B, 1, ...) in the type of `like` (B, ...)."""
        assert self._noisy is not None  # a layer of the denoiser is called by the model's `predict` only
        return beside(self._noisy, like).to(like.dtype)

    def remove(self) -> None:
        self._listeners.remove(self._take)


def check_gated(path: str, factor: Factor) -> LowRank:
    """The factor, if it can be gated by timestep. Raises FewShotError for other forms and networks."""
    plain = isinstance(factor, LowRank) and factor.mid is None and factor.bias is None and factor.up.dim() == 2
    if not in_denoiser(path) or not isinstance(factor, LowRank) or not plain:
        raise FewShotError(
            f"the adapter counts at noisy timesteps only, and {path} of it is no plain low-rank pair of a linear layer "
            "of the denoiser: train it again"
        )
    return factor


def add_gated_pairs(layer: nn.Module, pairs: Sequence[tuple[LowRank, float]], gate: NoiseGate) -> RemovableHandle:
    """Add low-rank pairs at their strengths to a linear layer's output for noisy rows, until the handle is removed."""
    pairs_here = [(pair_on(factor, layer.get_parameter("weight")), strength) for factor, strength in pairs]

    def add(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = gate.rows(output)
        for factor, strength in pairs_here:
            output = output + rows * pair_output(factor, strength, given[0], output)
        return output

    return layer.register_forward_hook(add)


def pair_on(factor: LowRank, weight: Tensor) -> LowRank:
    """The pair on the device of `weight`, so that no call waits for the host.

    ComfyUI reads files under inference mode, whose tensors no gradient may pass: they are copied.
    """
    up, down = (part.to(weight.device) for part in (factor.up, factor.down))
    up, down = (part.clone() if part.is_inference() else part for part in (up, down))
    return replace(factor, up=up, down=down)


def pair_output(factor: LowRank, strength: float, given: Tensor, output: Tensor) -> Tensor:
    """What a pair adds to a linear layer's `output` for its input `given`."""
    down, up = (part.to(output.device, output.dtype) for part in (factor.down, factor.up))
    return functional.linear(functional.linear(given.to(output.dtype), down), up) * (
        strength * factor.alpha / factor.rank
    )


def timestep_gated(pairs: Mapping[str, LowRank], strength: float, first: float) -> Callable[..., Tensor]:
    """What ComfyUI wraps around each call of a denoiser, so that pairs count for rows from timestep `first` on.

    Args:
        pairs: by the names of the linear layers beside which they stand.

    A compiled denoiser would keep the hooks of its first call for all timesteps, so those calls are not compiled.
    """
    return cast("Callable[..., Tensor]", torch.compiler.disable(_TimestepGate(dict(pairs), strength, first)))


@dataclass(frozen=True, eq=False)
class _TimestepGate:
    pairs: dict[str, LowRank]
    strength: float
    first: float
    there: dict[tuple[str, torch.device], LowRank] = field(default_factory=dict)
    """the pairs on the devices where they were used, so that they go there once"""

    def __call__(self, executor: Any, x: Tensor, timesteps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows = timesteps >= self.first
        if not rows.any():
            return executor(x, timesteps, *args, **kwargs)
        rows = None if rows.all() else rows
        handles = []
        try:
            for name in self.pairs:
                module = executor.class_obj.get_submodule(name)
                handles.append(module.register_forward_hook(self._beside(self._on(name, x), rows)))
            with _uncompiled():
                return executor(x, timesteps, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    def _on(self, name: str, x: Tensor) -> LowRank:
        place = (name, x.device)
        if place not in self.there:
            self.there[place] = pair_on(self.pairs[name], x)
        return self.there[place]

    def _beside(
        self, factor: LowRank, rows: Tensor | None
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A hook that adds the pair, to those of `rows` only where not all count.

        Nodes of regional prompts give keys and values more rows than there are timesteps, and these alike.
        """

        def add(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            more = pair_output(factor, self.strength, given[0], output)
            if rows is None:
                return output + more
            if len(rows) not in (1, len(output)):
                raise FewShotError(
                    f"{len(output)} rows of prompts stand beside {len(rows)} timesteps that differ, so the adapter of "
                    "noisy timesteps does not know which of them count: leave regional prompts or the adapter out"
                )
            return output + rows.to(output.device, output.dtype).view(-1, *[1] * (output.dim() - 1)) * more

        return add


def _uncompiled() -> AbstractContextManager:
    """Blocks of a denoiser that are compiled apart run as they are, which torch before 2.6 cannot do."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")
