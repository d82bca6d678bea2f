"""Frozen weights in float8: linear and convolution layers that store float8 and compute in their input's type.

Each output row has a scale of its own, so that its largest weight is float8's maximum (448 in e4m3); the relative error
of a weight is then at most 1/16. The backward pass dequantizes again, since autograd would hold every layer's
dequantized copy until then.
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
    """The weights (out, ...) of float8 values and their scales (out, 1, ...)."""
    return stored.to(dtype) * scale.to(dtype)


class Float8Linear(nn.Linear):
    """A frozen nn.Linear whose weight is stored in float8."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        x = _autocast(input)
        y = _Float8Matmul.apply(x, self.weight, self.scale)
        return y if self.bias is None else y + self.bias.to(y.dtype)


class Float8Conv2d(nn.Conv2d):
    """A frozen zero-padded nn.Conv2d whose kernel is stored in float8."""

    scale: Tensor

    def forward(self, input: Tensor) -> Tensor:
        x = _autocast(input)
        y = _Float8Conv.apply(x, self.weight, self.scale, (self.stride, self.padding, self.dilation, self.groups))
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


def _autocast(x: Tensor) -> Tensor:
    """`x` in autocast's type where autocast is on: it does not cast for custom autograd functions."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def add_unmerged_pairs(layer: nn.Module, parts: Sequence[tuple[Factor, float]]) -> RemovableHandle:
    """Add low-rank pairs at their strengths to a layer's output, until the handle is removed."""
    weight: Any = layer.weight
    kernel, pairs = weight.shape[2:], []
    for factor, strength in parts:
        assert isinstance(factor, LowRank)
        up, down = (part.to(weight.device, torch.float32) for part in (factor.up, factor.down))
        up = up.reshape(len(up), factor.rank, *[1] * len(kernel)) * (strength * factor.alpha / factor.rank)
        pairs.append((up, down.reshape(factor.rank, -1, *kernel)))

    def add(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        for up, down in pairs:
            x, up, down = given[0].to(output.dtype), up.to(output.dtype), down.to(output.dtype)
            if not isinstance(layer, nn.Conv2d):
                output = output + functional.linear(functional.linear(x, down), up)
            else:
                how = (layer.stride, layer.padding, layer.dilation, layer.groups)
                output = output + functional.conv2d(functional.conv2d(x, down, None, *how), up)  # type: ignore[arg-type]
        return output

    return layer.register_forward_hook(add)


FLOAT8_LAYERS: dict[type, type] = {nn.Linear: Float8Linear, nn.Conv2d: Float8Conv2d}


def quantize_to_float8(network: nn.Module) -> int:
    """Convert the frozen linear and convolution weights of `network` to float8; returns the number of layers.

    Norms and biases are unchanged. Call it before adapter layers are injected.
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
