"""A base model over ComfyUI's own networks: the contract once more, for transformers that learn a flow.

Weights are random and tiny. Text encoder and autoencoder are toys, since neither is what is tested: each word is a
vector of its own, so that captions have unequal lengths, and a picture's latents are its pixels' means, mixed.
ComfyUI has to be importable, see `probe`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.randomness import seed_of
from comfyui_fewshot.core.values import BaseModelRef
from comfyui_fewshot.models.conditioning import Conditioning, by_shape
from comfyui_fewshot.models.contract import DiffusionModel, ParameterCounts
from comfyui_fewshot.models.memory.weightless import weightless
from comfyui_fewshot.models.rectified_flow import RectifiedFlow

WIDTH = 24
"""of a word's vector"""
ROOT = "diffusion_model"
"""the first part of the layers' paths, as ComfyUI names them in its LoRA files"""
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "ZImage": dict(
        image_model="lumina2", patch_size=2, in_channels=16, dim=256, cap_feat_dim=WIDTH, n_layers=2,
        n_refiner_layers=1, n_heads=8, n_kv_heads=8, axes_dims=[8, 12, 12], axes_lens=[64, 32, 32], qk_norm=True,
        rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=8,
    ),
    "Flux2": dict(
        image_model="flux2", in_channels=128, out_channels=128, context_in_dim=WIDTH, hidden_size=64, num_heads=2,
        depth=1, depth_single_blocks=2, axes_dim=[8, 8, 8, 8], theta=2000, patch_size=1, mlp_ratio=3.0,
        vec_in_dim=None, qkv_bias=False, guidance_embed=False, global_modulation=True, mlp_silu_act=True,
        txt_ids_dims=[3], ops_bias=False, default_ref_method="index", ref_index_scale=10.0, yak_mlp=False,
        txt_norm=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Named:
    """A family of models."""

    name: str

    @property
    def title(self) -> str:
        return self.name

    text_encoders = ()
    guidance = learning_rate = None


class ComfyModel:
    """See `contract.DiffusionModel`."""

    denoiser: Any
    autoencoder: Any
    text_encoders: tuple = ()
    tokenizers: tuple = ()
    owns_weights = False
    native_resolution = 64

    def __init__(self, name: str):
        import comfy.supported_models

        config = getattr(comfy.supported_models, name)(dict(CONFIGS[name]))
        config.set_inference_dtype(torch.float32, None)
        self.inner = config.get_model({}, "", device="cpu").float().eval()
        fill(self.inner)
        self.denoiser, self.autoencoder = self.inner.diffusion_model, nn.Identity()
        self.family, self.process = Named(name), RectifiedFlow(shift=3.0)
        self.ref = BaseModelRef(name, Path(name), key=name)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.learned_tokens: Mapping[str, Mapping[str, Tensor]] = {}
        self.before_predict: list = []
        self.calls: list[tuple[int, int]] = []  # rows and words of each call of the denoiser

    @property
    def downscale(self) -> int:
        return self.inner.latent_format.spacial_downscale_ratio

    @cached_property
    def channels(self) -> int:
        return self.inner.latent_format.latent_channels

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        return self.channels, height // self.downscale, width // self.downscale

    # ------------------------------------------------------------------------------------------ pictures and prompts

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        cells = functional.avg_pool2d(pixels * 2 - 1, self.downscale)
        mixing = torch.randn(self.channels, 3, generator=torch.Generator().manual_seed(0))
        mean = torch.einsum("ck,bkhw->bchw", mixing, cells)
        return mean, torch.full_like(mean, 0.1)

    def decode(self, latents: Tensor) -> Tensor:
        pixels = functional.interpolate(latents[:, :3], scale_factor=self.downscale)
        return ((pixels + 1) / 2).clamp(0, 1)

    def encode_prompts(self, prompts: Sequence[str], embeddings: object = None) -> Conditioning:
        return Conditioning.cat([Conditioning.of(hidden=hidden_of(prompt)) for prompt in prompts])

    token_limit = 64

    def encode_weighted(self, prompts: Sequence[str], embeddings: object = None) -> Conditioning:
        return self.encode_prompts(prompts, embeddings)

    def count_tokens(self, prompt: str, whole: bool = False) -> int:
        return len(prompt.split())

    def token_positions(self, prompt: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        words = list(re.finditer(r"\S+", prompt))
        return tuple(i for i, w in enumerate(words, 1) if any(a <= w.start() and w.end() <= b for a, b in spans))

    # --------------------------------------------------------------------------------------------------- the denoiser

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
        return by_shape(self._velocity, latents, t, conditioning, sizes)

    def _velocity(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None) -> Tensor:
        """What the network itself gives for rows of one length, not what `apply_model` makes of it."""
        for listener in self.before_predict:
            listener(self.process.noise_level(t))
        self.calls.append((len(latents), conditioning["hidden"].shape[1]))
        conds = self.conds(latents, conditioning["hidden"])
        time = self.inner.model_sampling.timestep(t).float()
        with OutOfPlace():
            return self.denoiser(latents, time, context=conds.pop("c_crossattn"), transformer_options={}, **conds)

    def conds(self, latents: Tensor, hidden: Tensor) -> dict[str, Any]:
        """What ComfyUI gives the network besides latents and times."""
        found = self.inner.extra_conds(cross_attn=hidden, noise=latents, device="cpu")
        return {name: cond.process_cond(len(latents)).cond for name, cond in found.items()}

    def offloadable(self, reads_text: bool) -> list[nn.Module]:
        return []

    def differentiable(self) -> AbstractContextManager[None]:
        return nullcontext()

    def parameter_counts(self) -> ParameterCounts:
        return ParameterCounts(sum(p.numel() for p in self.denoiser.parameters()), 0, 0)

    def without_weights(self, dtype: torch.dtype) -> DiffusionModel:
        made = copy.copy(self)
        made.denoiser = weightless(self.denoiser, types={self.dtype: dtype})
        return made

    def size_conditioning(self, crops: Sequence[Any]) -> None:
        return None

    def attention_layers(self, height: int, width: int) -> tuple[Any, ...]:
        raise FewShotError("this model has no layers whose attention is known: set local_weight to 0")

    def record_attention(self, layers: Sequence[Any]) -> AbstractContextManager[Any]:
        raise FewShotError("this model has no layers whose attention is known: set local_weight to 0")

    def parts(self) -> dict[str, nn.Module]:
        return {ROOT: self.denoiser}

    def layers(self, group: str) -> Iterator[str]:
        """Text and picture attend together, so these layers are those of "cross" as well as of "self"."""
        for name, module in self.denoiser.named_modules():
            attends = "att" in name
            if isinstance(module, nn.Linear) and group in (("cross", "self") if attends else ("feed_forward",)):
                yield f"{ROOT}.{name}"

    def checkpointing(self, on: bool) -> None:
        if on:
            raise FewShotError("this model keeps what it computes: set gradient_checkpointing to off")


@contextmanager
def opened(name: str) -> Iterator[ComfyModel]:
    """A model that can be trained until the context ends.

    ComfyUI's fused kernels have no backward pass and are off `in_training`.
    """
    import comfy.model_management as management

    model, before = ComfyModel(name), management.in_training
    management.in_training = True
    try:
        yield model
    finally:
        management.in_training = before


class OutOfPlace(TorchFunctionMode):
    """`x += y` as `x = x + y` in a forward pass: the blocks of `Flux2` add in place to what autograd has saved.

    torch's own `allow_mutation_on_saved_tensors` would have to be open in the backward pass too, keeps an entry of each
    tensor that was ever saved, and knows these by numbers that come again: kept open over several steps it gave wrong
    gradients. Nothing here drops what `add_` returns, which this relies on.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return (torch.add if func is Tensor.add_ else func)(*args, **(kwargs or {}))


def hidden_of(prompt: str) -> Tensor:
    """The vectors (1, words + 1, WIDTH) of a prompt, the first of which begins it."""
    rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed_of(w))) for w in ("", *prompt.split())]
    return torch.stack(rows)[None]


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Random weights that depend on the parameters' names alone: of their layers' size; norms are 1, biases 0."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1:
            parameter.fill_(float(not name.endswith("bias")))
        else:
            bound = parameter[0].numel() ** -0.5
            parameter.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed_of(name)))
