"""Low-rank updates beside the layers of a network, and their initial weights."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.errors import FewShotError
from ...core.values import LowRank
from .apply import find_module
from .timestep_range import NoiseGate

if TYPE_CHECKING:
    from ..contract import DiffusionModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoraSpec:
    """Rank and alpha of a low-rank update; its strength is alpha / rank (Hu et al. 2021, section 4.1).

    Args:
        block: the update reads only this block of an orthonormal basis of the layer's inputs. The basis is the same in
            every training, so adapters of different blocks add up without mixing (Po et al. 2024).
        noisy_from: the share of the schedule from which on the update counts; 0 for all timesteps.
    """

    rank: int
    alpha: float
    block: int | None = None
    noisy_from: float = 0.0

    def __post_init__(self):
        if self.rank < 1:
            raise FewShotError(f"a LoRA of rank {self.rank} was asked for: choose at least 1")
        if not self.alpha > 0:
            raise FewShotError(f"a LoRA with alpha {self.alpha} was asked for: choose a number above 0")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def clamp_ranks(model: DiffusionModel, specs: Mapping[str, LoraSpec]) -> dict[str, LoraSpec]:
    """The specs with each rank lowered to at most its layer's width, alpha / rank unchanged; logs what it lowered."""
    roots = model.parts()
    fitting, lowered = {}, []
    for path, spec in specs.items():
        layer: Any = find_module(roots, path)
        most = min(layer.in_features, layer.out_features)
        if spec.rank > most:
            lowered.append((path, most))
            spec = replace(spec, rank=most, alpha=spec.scale * most)
        fitting[path] = spec
    if lowered:
        path, most = min(lowered, key=lambda one: one[1])
        log.warning(
            "the rank is above the width of %d of %d layers and is lowered to it there: to %d in %s",
            len(lowered), len(specs), most, path,
        )  # fmt: skip
    return fitting


class LowRankLayer:
    """The update of one linear layer: scale * up(down(x)) beside what the layer itself gives (Hu et al. 2021, eq. 3).

    It hooks into the layer and asks nothing of its class but `in_features` and `out_features`, so that layers of any
    library and of quantised weights have it. It computes in the type of what the layer is given, or in autocast's.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.down = self.up = torch.nn.Parameter(torch.empty(0))
        self.scale, self.on = 1.0, False
        self.gate: NoiseGate | None = None
        self._handle = layer.register_forward_hook(self._beside)

    def set_weights(self, spec: LoraSpec, first: tuple[Tensor, Tensor]) -> tuple[nn.Parameter, nn.Parameter]:
        """Its down (rank, in) and up (out, rank) in float32 where the layer's weight is. A block's `down` is frozen."""
        self.down, self.up = (nn.Parameter(tensor.to(device_of(self.layer))) for tensor in first)
        self.down.requires_grad_(spec.block is None)
        self.scale, self.on = spec.scale, True
        return self.down, self.up

    def remove(self) -> None:
        self._handle.remove()

    def _beside(self, _: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not self.on:
            return output
        x = given[0]
        more = functional.linear(functional.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))
        if self.gate is not None:
            more = more * self.gate.rows(more)
        return (output + more * self.scale).to(output.dtype)


def device_of(layer: nn.Module) -> torch.device:
    """Where a layer's weight is."""
    return next(layer.parameters(recurse=False)).device


def wrap(model: DiffusionModel, paths: Iterable[str]) -> dict[str, LowRankLayer]:
    """Low-rank updates, still without weights, beside the layers at `paths`."""
    roots = model.parts()
    found = {path: find_module(roots, path) for path in paths}
    if any(_is_trained(layer) for layer in found.values()):
        raise FewShotError("the networks are being trained already: remove the other layers first")
    return {path: LowRankLayer(layer) for path, layer in found.items()}


def _is_trained(layer: nn.Module) -> bool:
    return any(isinstance(getattr(hook, "__self__", None), LowRankLayer) for hook in layer._forward_hooks.values())


def initial_weights(base: Any, spec: LoraSpec, seed: int, path: str, begin: LowRank | None) -> tuple[Tensor, Tensor]:
    """Initial down (rank, in) and up (out, rank): a new pair, its first rows those of the adapter to continue from."""
    if spec.block is not None:
        down = basis_block(path, base.in_features, spec.rank, spec.block)
    else:
        bound = 1 / math.sqrt(base.in_features)
        down = torch.empty(spec.rank, base.in_features).uniform_(-bound, bound, generator=_stream(f"{seed}/{path}"))
    up = torch.zeros(base.out_features, spec.rank)
    if begin is None:
        return down, up
    given = begin.down.flatten(1).float()
    if given.shape[1] != base.in_features or begin.up.shape[0] != base.out_features:
        raise FewShotError(f"{path} of the LoRA to train on from has another shape: it is for another base model")
    strength = begin.alpha / begin.rank / spec.scale
    if spec.block is None:
        down[: begin.rank] = given
    elif begin.rank != spec.rank or not torch.allclose(given, down, atol=1e-3):
        raise FewShotError(
            f"{path} of the LoRA to train on from was not trained in block {spec.block} of rank {spec.rank}: set "
            "subject_block and rank to those it was trained with"
        )
    up[:, : begin.rank] = begin.up.flatten(1).float() * strength
    return down, up


def basis_block(path: str, width: int, rank: int, block: int) -> Tensor:
    """Rows (rank, width), orthonormal among themselves and to those of every other block of the same rank.

    Raises FewShotError when the layer has no room for so many blocks.
    """
    room = width // rank
    if block >= room:
        raise FewShotError(
            f"block {block} was asked for, but {path} of width {width} holds {room} blocks of rank {rank}: lower rank "
            f"or choose a block from 0 to {room - 1}"
        )
    last = (block + 1) * rank
    drawn = torch.empty(last, width, dtype=torch.float64).normal_(generator=_stream(f"basis/{path}"))
    whole, signs = torch.linalg.qr(drawn.T)
    whole = whole * signs.diagonal().sign()  # the one factor with a positive diagonal, whatever computed it
    return whole.T[last - rank :].float().contiguous()


def _stream(name: str) -> torch.Generator:
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
