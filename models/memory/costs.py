"""What a model's networks take beside their weights, measured by passes through a copy without weights.

Not counted are workspaces of kernels and rounding by the allocator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapters.lora_layers import LoraSpec, LowRankLayer, wrap
from ..conditioning import Conditioning
from ..contract import ActivationMemory
from .peak import peak_bytes
from .weightless import META

if TYPE_CHECKING:
    from ..contract import DiffusionModel

RANK = 2  # of the adapters that are there when it is measured; what they keep is the input of their layer
PROMPT = "a photo"
TEXT = "text"
_measured: dict[tuple, float] = {}
"""results of this process: the same networks are measured once"""


class MeasuredCosts:
    """See `contract.ActivationCosts`.

    Args:
        model: a copy without weights, `contract.DiffusionModel.without_weights`.
        half: the type that stands for half precision.
    """

    def __init__(self, model: DiffusionModel, half: torch.dtype = torch.bfloat16):
        self.model, self.half = model, half
        self._copies: dict[torch.dtype, tuple[DiffusionModel, str]] = {}

    def training(self, side: int, half: bool, adapters: Collection[str]) -> ActivationMemory:
        groups = tuple(sorted(adapters))
        stored, checkpointed = (
            self._kept("step", side, half, groups, flag, of=lambda m, flag=flag: _step(m, side, groups, flag))
            for flag in (False, True)
        )
        return ActivationMemory(stored, checkpointed)

    def sampling(self, side: int, half: bool, adapters: Collection[str]) -> float:
        groups = tuple(sorted(adapters))
        return self._kept("sampling", side, half, groups, of=lambda m: _sampling(m, side, groups))

    def encoding(self, side: int, itemsize: int) -> float:
        def passed(model: DiffusionModel) -> int:
            pixels = torch.empty(1, 3, side, side, device=META)
            return peak_bytes(lambda: model.encode_images(pixels), _weights(model))

        return self._kept("encoding", side, itemsize == 2, of=passed)

    def decoding(self, side: int, itemsize: int) -> float:
        def passed(model: DiffusionModel) -> int:
            latents = torch.empty(1, *model.latent_shape(side, side), device=META)
            with torch.no_grad():
                return peak_bytes(lambda: model.decode(latents), _weights(model))

        return self._kept("decoding", side, itemsize == 2, of=passed)

    def prompt(self, half: bool, adapters: bool) -> float:
        return self._kept("prompt", half, adapters, of=lambda m: _prompt(m, adapters))

    def _kept(self, *what: Any, of: Callable[[DiffusionModel], float]) -> float:
        half = next(value for value in what if isinstance(value, bool))
        model, shapes = self._copy(self.half if half else torch.float32)
        key = (shapes, *what)
        if key not in _measured:
            with torch.inference_mode(False), torch.enable_grad():
                _measured[key] = of(model)
        return _measured[key]

    def _copy(self, dtype: torch.dtype) -> tuple[DiffusionModel, str]:
        if dtype not in self._copies:
            model = self.model.without_weights(dtype)
            self._copies[dtype] = (model, _shapes(model))
        return self._copies[dtype]


def _shapes(model: DiffusionModel) -> str:
    """A key of all that decides what is measured: names, shapes and types of the networks' weights."""
    digest = hashlib.sha256(f"{model.family.name}|{model.dtype}".encode())
    for root, network in (*model.parts().items(), *enumerate(model.offloadable(reads_text=True))):
        for name, tensor in network.state_dict().items():
            digest.update(f"{root}|{name}|{tuple(tensor.shape)}|{tensor.dtype}".encode())
    return digest.hexdigest()


def _weights(model: DiffusionModel) -> list[Tensor]:
    modules = [*model.parts().values(), *model.offloadable(reads_text=False)]
    return [tensor for network in modules for tensor in (*network.parameters(), *network.buffers())]


def _adapters(model: DiffusionModel, groups: Collection[str]) -> dict[str, LowRankLayer]:
    """Low-rank updates on all layers of the groups, each layer once."""
    paths = dict.fromkeys(path for group in groups for path in model.layers(group))
    layers = wrap(model, paths)
    for update in layers.values():
        wide: Any = update.layer
        pair = torch.empty(RANK, wide.in_features, device=META), torch.empty(wide.out_features, RANK, device=META)
        update.set_weights(LoraSpec(RANK, RANK), pair)
    return layers


def _step(model: DiffusionModel, side: int, groups: Collection[str], checkpointing: bool) -> int:
    """A forward pass of one picture, and its backward pass."""
    layers = _adapters(model, groups)
    for network in model.parts().values():
        network.train(checkpointing)  # diffusers' networks checkpoint in training mode alone
    model.checkpointing(checkpointing)
    latents, t = _noisy(model, side)
    with torch.no_grad():
        conditioning = model.encode_prompts([PROMPT])
    if not layers:  # where words alone are learned
        conditioning = Conditioning.of(
            **{name: t.requires_grad_(t.is_floating_point()) for name, t in _named(conditioning)}
        )

    def passes() -> None:
        with model.differentiable():
            _backward([model.predict(latents, t, conditioning).square().mean()])

    try:
        return peak_bytes(passes, [*_weights(model), *_parts(layers)])
    finally:
        model.checkpointing(False)
        _remove(layers)


def _sampling(model: DiffusionModel, side: int, groups: Collection[str]) -> int:
    layers = _adapters(model, groups)
    latents, t = _noisy(model, side)
    try:
        with torch.no_grad():
            conditioning = model.encode_prompts([PROMPT])
            known = [*_weights(model), *_parts(layers), latents, t]
            with model.differentiable():
                return peak_bytes(lambda: model.predict(latents, t, conditioning), known)
    finally:
        _remove(layers)


def _prompt(model: DiffusionModel, adapters: bool) -> int:
    """A prompt that is encoded in a step: with adapters in the text encoders, or words that are learned."""
    layers = _adapters(model, [TEXT]) if adapters else {}
    tables = [] if adapters else [one.get_input_embeddings().weight for one in model.text_encoders]
    for table in tables:
        table.requires_grad_(True)
    try:

        def passes() -> None:
            encoded = model.encode_prompts([PROMPT])
            _backward([tensor.float().sum() for _, tensor in _named(encoded)])

        return peak_bytes(passes, [*_weights(model), *_parts(layers)])
    finally:
        for table in tables:
            table.requires_grad_(False)
            table.grad = None
        _remove(layers)


def _named(conditioning: Conditioning) -> list[tuple[str, Tensor]]:
    return [(name, conditioning[name]) for name, _ in conditioning.blocks[0].shape]


def _backward(values: list[Tensor]) -> None:
    """By the engine itself: torch's own functions leave the modes in which checkpoints have to be computed again."""
    ones = tuple(torch.ones_like(value) for value in values)
    torch.autograd.Variable._execution_engine.run_backward(tuple(values), ones, False, False, (), True, True)


def _noisy(model: DiffusionModel, side: int) -> tuple[Tensor, Tensor]:
    """Latents of one picture, and a time."""
    return torch.empty(1, *model.latent_shape(side, side), device=META), model.process.times[:1].to(META)


def _parts(layers: dict[str, LowRankLayer]) -> list[nn.Parameter]:
    return [part for update in layers.values() for part in (update.down, update.up)]


def _remove(layers: dict[str, LowRankLayer]) -> None:
    for update in layers.values():
        update.remove()
