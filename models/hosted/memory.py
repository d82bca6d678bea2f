"""What hosted networks take beside their weights: the denoiser is measured, and ComfyUI tells of its autoencoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..contract import ParameterCounts
from ..memory.costs import MeasuredCosts
from ..memory.weightless import weightless
from .in_place import inner_names
from .parts import HostedParts


class HostedCosts(MeasuredCosts):
    """See `contract.ActivationCosts`."""

    def __init__(self, model: Any, vae: Any):
        super().__init__(model)
        self.vae = vae

    def encoding(self, side: int, itemsize: int) -> float:
        frames = (1,) if self.vae.latent_dim == 3 else ()
        return float(self.vae.memory_used_encode((1, 3, *frames, side, side), self.vae.vae_dtype))

    def decoding(self, side: int, itemsize: int) -> float:
        return float(self.vae.memory_used_decode((1, *self.model.latent_shape(side, side)), self.vae.vae_dtype))

    def prompt(self, half: bool, adapters: bool) -> float:
        return 0.0  # no text encoder takes part in a step


def counts(parts: HostedParts) -> ParameterCounts:
    """By the storage of weights: those in less than two bytes count as half as many in two."""
    modules = (parts.model.model.diffusion_model, parts.vae.first_stage_model, parts.clip.cond_stage_model)
    return ParameterCounts(*map(_count, modules))


def _count(network: nn.Module) -> float:
    return sum(min(1.0, stored_bytes(p) / (2 * p.numel())) * p.numel() for p in network.parameters() if p.numel())


def stored_bytes(tensor: Tensor) -> int:
    """Of a weight, quantised ones by what they hold."""
    names = inner_names(tensor)
    own = tensor.numel() * tensor.element_size()
    return sum(stored_bytes(getattr(tensor, name)) for name in names) if names else own


def weightless_base(base: Any, dtype: torch.dtype, computing: torch.dtype) -> Any:
    """A copy of ComfyUI's model without weights, which computes in `dtype` where the model does in `computing`.

    Weights in less stay so. Quantised layers keep what they read, as ComfyUI's do.
    """
    quantised = {name for name, module in base.named_modules() if getattr(module, "layout_type", None) is not None}
    made = weightless(base, base.current_patcher, base.model_config, types={computing: dtype})
    for name, module in made.named_modules():
        if name in quantised:
            module.forward = _Keeping(module)
    if dtype != computing:
        made.diffusion_model.dtype = dtype if made.diffusion_model.dtype == computing else made.diffusion_model.dtype
        made.manual_cast_dtype = made.manual_cast_dtype and dtype
    return made


class _Keeping:
    """In place of a quantised layer's forward pass, which keeps its input whether it is trained or not."""

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        return _Kept.apply(x, self.layer.weight.to(x.dtype))


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        ctx.weight = weight
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient @ ctx.weight, None


def fused_attention(_: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *__: Any, **how: Any) -> Tensor:
    """ComfyUI's attention by torch's function, whichever one it would choose: for `optimized_attention_override`."""
    if not how.get("skip_reshape"):
        q, k, v = (x.unflatten(-1, (-1, x.shape[-1] // heads)).transpose(1, 2) for x in (q, k, v))
    made = functional.scaled_dot_product_attention(q, k, v)
    return made if how.get("skip_output_reshape") else made.transpose(1, 2).flatten(2)
