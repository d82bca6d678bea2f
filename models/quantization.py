"""Frozen weights in 8 bits: linear and convolution layers that keep float8 and compute in the type of their input.

Each output row has a scale of its own, so that its largest weight is float8's largest number (448 in e4m3); a weight is
then off by at most 1/16 of itself. The backward pass to the input takes the 8 bits apart again instead of keeping the
wide copy, which autograd would hold for every layer until the backward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from ..core.values import Factor, LowRank

log = logging.getLogger(__name__)

FLOAT8 = torch.float8_e4m3fn
FLOAT8_MAX = torch.finfo(FLOAT8).max


class _Float8Matmul(torch.autograd.Function):
    """x W^T for a frozen W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(stored, scale)
        return functional.linear(x, dequantize(stored, scale, x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient @ _saved(ctx, gradient.dtype), None, None


class _Float8Conv(torch.autograd.Function):
    """The convolution of x with a frozen kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stored: Tensor, scale: Tensor, how: tuple) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(stored, scale)
        ctx.shape, ctx.how = x.shape, how
        return functional.conv2d(x, dequantize(stored, scale, x.dtype), None, *how)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        weight = _saved(ctx, gradient.dtype)
        return nn.grad.conv2d_input(ctx.shape, weight, gradient, *ctx.how), None, None, None


def _saved(ctx: Any, dtype: torch.dtype) -> Tensor:
    stored, scale = ctx.saved_tensors
    return dequantize(stored, scale, dtype)


def dequantize(stored: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights (out, ...) that 8 bits and their scales (out, 1, ...) stand for."""
    return stored.to(dtype) * scale.to(dtype)


class Float8Linear(nn.Linear):
    """A frozen nn.Linear whose weight is kept in 8 bits."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        x = _autocast(input)
        y = _Float8Matmul.apply(x, self.weight, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Float8Conv2d(nn.Conv2d):
    """A frozen nn.Conv2d, zero-padded, whose kernel is kept in 8 bits."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        x = _autocast(input)
        y = _Float8Conv.apply(x, self.weight, self.scale, (self.stride, self.padding, self.dilation, self.groups))
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


def _autocast(x: Tensor) -> Tensor:
    """`x` in autocast's type, where that is on: own functions are not cast by it."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def add_unmerged_pairs(layer: nn.Module, parts: Sequence[tuple[Factor, float]]) -> RemovableHandle:
    """Add low-rank pairs at their strengths to what a layer gives, until the handle is removed."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    kernel, pairs = layer.weight.shape[2:], []
    for factor, strength in parts:
        assert isinstance(factor, LowRank)
        up, down = (part.to(layer.weight.device, torch.float32) for part in (factor.up, factor.down))
        up = up.reshape(len(up), factor.rank, *[1] * len(kernel)) * (strength * factor.alpha / factor.rank)
        pairs.append((up, down.reshape(factor.rank, -1, *kernel)))

    def add(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for up, down in pairs:
            x, up, down = given[0].to(output.dtype), up.to(output.dtype), down.to(output.dtype)
            if isinstance(layer, nn.Linear):
                output = output + functional.linear(functional.linear(x, down), up)
            else:
                how = (layer.stride, layer.padding, layer.dilation, layer.groups)
                output = output + functional.conv2d(functional.conv2d(x, down, None, *how), up)  # type: ignore[arg-type]
        return output

    return layer.register_forward_hook(add)


FLOAT8_LAYERS: dict[type, type] = {nn.Linear: Float8Linear, nn.Conv2d: Float8Conv2d}


def quantize_to_float8(network: nn.Module) -> int:
    """Keep the frozen linear and convolution weights of `network` in 8 bits from now on; gives how many layers do.

    Its other parameters (norms, biases) stay as they are. It must be done before layers are put around these.
    """
    done = 0
    for module in network.modules():
        kind = FLOAT8_LAYERS.get(type(module))
        if kind is None or not isinstance(module, (nn.Linear, nn.Conv2d)) or module.weight.requires_grad:
            continue
        weight = module.weight.detach().float()
        scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12) / FLOAT8_MAX
        scale = scale.view(-1, *[1] * (weight.dim() - 1))
        module.weight = nn.Parameter((weight / scale).to(FLOAT8), requires_grad=False)
        module.register_buffer("scale", scale)
        module.__class__ = kind
        done += 1
    log.info("%d layers of the frozen denoiser are kept in 8 bits", done)
    return done
