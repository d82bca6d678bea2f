"""The most bytes that tensors take at once while something is computed, on whatever device, the meta one included."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SLACK = 0.002  # what let-go tensors are looked for beyond, since looking takes time


def peak_bytes(compute: Callable[[], Any], known: Iterable[Tensor] = ()) -> int:
    """The peak of what `compute` makes, without `known` tensors; attention is counted as fused kernels compute it."""
    live = _Live(known)
    with _FusedAttention(), live:
        compute()
    return live.most


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that live at once; `most` is their peak."""

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.sizes: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = self.most = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        if not any([self._add(tensor) for tensor in made]) or self.total <= self.most * (1 + SLACK):
            return result
        for key in [key for key, (storage, _) in self.sizes.items() if storage.expired()]:
            self.total -= self.sizes.pop(key)[1]
        self.most = max(self.most, self.total)
        return result

    def _add(self, tensor: Tensor) -> bool:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return False
        if key in self.sizes:
            if not self.sizes[key][0].expired():
                return False
            self.total -= self.sizes[key][1]  # another storage lies where one was
        self.sizes[key] = (StorageWeakRef(storage), storage.nbytes())
        self.total += storage.nbytes()
        return True


class _Fused(torch.autograd.Function):
    """What attention keeps in fused kernels: its inputs and its output."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        result = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


class _FusedAttention(TorchFunctionMode):
    """Tensors without storage would take attention's plain way, which keeps every pair of tokens."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            q, k, v = (*args, *((kwargs or {})[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            return _Fused.apply(q, k, v)
        return func(*args, **(kwargs or {}))
