"""ComfyUI's networks as they are, made differentiable for a while and then left exactly as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .host import comfy


def as_loaded(network: nn.Module) -> AbstractContextManager:
    """The mode that a network's weights were made in, which in a graph is inference mode: ComfyUI moves quantised ones
    in no other."""
    return torch.inference_mode(any(p.is_inference() for p in network.parameters()))


@contextmanager
def plain_weights(network: nn.Module) -> Iterator[None]:
    """Weights that ComfyUI loaded under inference mode, through which no gradient passes, as views that let it.

    The views lie on the same memory; at the end the old tensors are back, but of what ComfyUI moved meanwhile.
    """
    before: list[tuple[dict[str, Any], str, Any, Any]] = []
    try:
        with torch.inference_mode(False):
            for module in network.modules():
                both: list[dict[str, Any]] = [module._parameters, module._buffers]  # type: ignore[list-item]
                for held in both:
                    for name, tensor in held.items():
                        if tensor is not None and tensor.is_inference():
                            held[name] = _same_kind(tensor, plain(tensor))
                            before.append((held, name, tensor, held[name]))
        yield
    finally:
        for held, name, tensor, view in before:
            if held[name] is view and view.device == tensor.device:
                held[name] = tensor


def inner_names(tensor: Tensor) -> list[str]:
    """The names of the tensors that a quantised one is made of; none of any other."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return [] if flatten is None or type(tensor) in (Tensor, nn.Parameter) else flatten()[0]


def plain(tensor: Tensor) -> Tensor:
    """A tensor on the same memory that is no inference tensor; of a quantised one its parts are."""
    if names := inner_names(tensor):
        kind: Any = type(tensor)
        _, context = kind.__tensor_flatten__(tensor)
        parts = {name: plain(getattr(tensor, name)) for name in names}
        return kind.__tensor_unflatten__(parts, context, tensor.size(), tensor.stride())
    made = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return made.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def _same_kind(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new


@contextmanager
def differentiable(values: bool = True) -> Iterator[None]:
    """Around a forward pass through ComfyUI's networks and its backward pass; it cannot be nested.

    ComfyUI's fused kernels have no backward pass, and some blocks add in place to tensors that one needs: they are
    copied first. Without `values`, on the meta device, they may be what they are.
    """
    management = comfy().model_management
    before = getattr(management, "in_training", False)
    management.in_training = True
    try:
        graph = torch.autograd.graph  # which knows tensors by their addresses, of which those without values have none
        kept = graph.allow_mutation_on_saved_tensors() if values else graph.saved_tensors_hooks(_same, _itself)
        with kept:
            yield
    finally:
        management.in_training = before


def _same(tensor: Tensor) -> Tensor:
    return tensor.detach()  # or a tensor that a function both made and kept would hold itself


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks that a network repeats: members of its lists of modules, the outermost ones."""
    found: list[nn.Module] = []
    for child in network.children():
        found += list(child) if isinstance(child, nn.ModuleList) else blocks(child)
    return found


def checkpoint_blocks(network: nn.Module) -> ExitStack:
    """Compute each block anew in the backward pass, until the stack is closed."""
    stack = ExitStack()
    for block in blocks(network):
        own = block.__dict__.get("forward")
        block.forward = _checkpointed(block.forward)  # type: ignore[method-assign]
        stack.callback(_put_back, block, own)
    return stack


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        call = _Call(forward, (given, named))
        outputs = _Checkpoint.apply(call, torch.ones((), requires_grad=True), *call.tensors())
        return tree_unflatten(list(outputs), call.form)

    return run


class _Call:
    """A call of a block, again and again with other tensors; `form` is that of what it last gave."""

    def __init__(self, forward: Callable[..., Any], given: tuple[tuple, dict[str, Any]]):
        self.forward, self.names, self.form = forward, tuple(given[1]), tree_flatten(())[1]
        self.leaves, self.shape = tree_flatten((given[0], tuple(given[1].values())), is_leaf=_is_options)
        self.places = [i for i, v in enumerate(self.leaves) if isinstance(v, Tensor) and v.is_floating_point()]

    def tensors(self) -> list[Tensor]:
        return [self.leaves[i] for i in self.places]

    def __call__(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """On copies, since blocks add in place to what they are given."""
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor.clone()
        given, values = tree_unflatten(leaves, self.shape)
        outputs, self.form = tree_flatten(self.forward(*given, **dict(zip(self.names, values, strict=True))))
        return tuple(outputs)

    def forget(self) -> None:
        """Let the tensors go, which autograd keeps."""
        for place in self.places:
            self.leaves[place] = None


def _is_options(value: Any) -> bool:
    return isinstance(value, dict)  # ComfyUI's options, which blocks write to


class _Checkpoint(torch.autograd.Function):
    """A call whose backward pass begins with the call itself.

    torch's own checkpoint that is not reentrant keeps what it computes the second time without copying what is then
    changed in place, whatever `allow_mutation_on_saved_tensors` would: its gradients are wrong in such blocks (by 3e-4
    in a small FLUX). Here the second call records like any other. The first argument that needs a gradient stands for
    the adapters, whose gradients go straight to their parameters.
    """

    @staticmethod
    def forward(ctx: Any, call: _Call, _: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.call = call
        ctx.save_for_backward(*tensors)
        outputs = call(tensors)
        call.forget()
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        needed = ctx.needs_input_grad[2:]
        given = [t.detach().requires_grad_(flag) for t, flag in zip(ctx.saved_tensors, needed, strict=True)]
        with torch.enable_grad():
            outputs = ctx.call(given)
        pairs = [(y, g) for y, g in zip(outputs, gradients, strict=True) if y.requires_grad]
        torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
        return (None, None, *(tensor.grad for tensor in given))


def _put_back(block: nn.Module, own: Any) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own  # type: ignore[method-assign]
