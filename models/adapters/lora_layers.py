"""Low-rank layers: peft's layers around chosen modules, and their initial weights."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.values import LowRank
from .apply import find_module, parent_of

if TYPE_CHECKING:
    from ..contract import DiffusionModel

log = logging.getLogger(__name__)

# The name of our adapter within peft's layers.
_NAME = "fewshot"


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
        most = min(find_module(roots, path).get_parameter("weight").shape)
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


def wrap(model: DiffusionModel, paths: Iterable[str]) -> dict[str, Any]:
    """Put peft's layers, still without weights, around the modules at `paths`."""
    layers = {}
    paths = list(paths)
    for root, network in model.parts().items():
        mine = [path for path in paths if path.startswith(root + ".")]
        if not mine:
            continue
        if hasattr(network, "peft_config"):
            raise FewShotError("the networks are being trained already: remove the other layers first")
        inner = {path: _submodule_name(network, path) for path in mine}
        config = LoraConfig(target_modules="|".join(map(re.escape, inner.values())), r=1, lora_alpha=1)
        inject_adapter_in_model(config, network, adapter_name=_NAME, low_cpu_mem_usage=True)
        layers |= {path: network.get_submodule(name) for path, name in inner.items()}
    return layers


def unwrap(model: DiffusionModel, layers: Mapping[str, Any]) -> None:
    """Take the layers out again."""
    for path, layer in layers.items():
        parent, name = parent_of(model.parts(), path)
        setattr(parent, name, layer.base_layer)
    for network in model.parts().values():
        if hasattr(network, "peft_config"):
            del network.peft_config


def _submodule_name(network: nn.Module, path: str) -> str:
    """A module's name within its network, whichever transformers release built it."""
    name = path.partition(".")[2]
    return name if hasattr(network, "text_model") else name.removeprefix("text_model.")


def initial_weights(
    base: nn.Linear, spec: LoraSpec, seed: int, path: str, begin: LowRank | None
) -> tuple[Tensor, Tensor]:
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


def set_weights(layer: Any, spec: LoraSpec, first: tuple[Tensor, Tensor]) -> tuple[nn.Parameter, nn.Parameter]:
    """Give a peft layer its weights: float32, on the device of the layer that it wraps. A block's `down` is frozen."""
    device = layer.base_layer.weight.device
    down, up = (nn.Parameter(tensor.to(device)) for tensor in first)
    down.requires_grad_(spec.block is None)
    layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight = down, up
    layer.r[_NAME], layer.lora_alpha[_NAME], layer.scaling[_NAME] = spec.rank, spec.alpha, spec.scale
    return down, up


def lora_up(layer: Any) -> nn.Module:
    """The part of a peft layer that gives what is added to the layer it wraps, before it is scaled."""
    return layer.lora_B[_NAME]
