"""Copies of networks that have shapes and types and no weights: on the meta device, where nothing is computed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

Network = TypeVar("Network", bound=nn.Module)
META = torch.device("meta")
KEPT: Mapping[torch.dtype, torch.dtype] = MappingProxyType({})

# What autocast computes in half precision and what in float32, of CUDA's lists (torch's notes on automatic mixed
# precision), as far as networks here use them.
IN_HALF = (
    functional.linear, functional.conv2d, functional.scaled_dot_product_attention, torch.matmul, torch.bmm,
    torch.baddbmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.baddbmm,
)  # fmt: skip
IN_FLOAT32 = (
    functional.layer_norm, functional.group_norm, functional.rms_norm, functional.softmax, torch.softmax,
    Tensor.softmax, torch.nn.functional.mse_loss,
)  # fmt: skip


def weightless(network: Network, *shared: Any, types: Mapping[torch.dtype, torch.dtype] = KEPT) -> Network:
    """A copy on the meta device, without what hooks into it; nothing of `shared` objects is copied either.

    `types` are what weights become by what they are in; others stay.
    """
    memo: dict[int, Any] = {id(one): one for one in shared}
    for module in network.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):  # of adapters, whose weights are real
            memo[id(hooks)] = OrderedDict()
        for name, tensor in _tensors(module):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _like(module, name, tensor, types.get(tensor.dtype, tensor.dtype))
    return copy.deepcopy(network, memo)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    yield from module._parameters.items()
    yield from module._buffers.items()


def _like(module: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    made = torch.empty(tensor.shape, dtype=dtype, device=META)
    return nn.Parameter(made, requires_grad=False) if name in module._parameters else made


def autocast(dtype: torch.dtype) -> AbstractContextManager:
    """Autocast on the meta device, for which torch has none; nothing for float32."""
    return nullcontext() if dtype == torch.float32 else _Autocast(dtype)


class _Autocast(TorchFunctionMode):
    """Casts what functions are given as CUDA's autocast does."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        wanted = self.dtype if func in IN_HALF else torch.float32 if func in IN_FLOAT32 else None
        if wanted is None:
            return func(*args, **(kwargs or {}))
        args = tuple(_cast(value, wanted) for value in args)
        return func(*args, **{name: _cast(value, wanted) for name, value in (kwargs or {}).items()})


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
