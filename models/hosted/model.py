"""A base model that ComfyUI has loaded, as a `contract.DiffusionModel`: its own network, encoder and autoencoder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import FewShotError
from ...core.values import BaseModelRef
from ..conditioning import Conditioning, Embeddings, by_shape, rows_of
from ..process import beside
from .families import HostedFamily
from .in_place import checkpoint_blocks, differentiable
from .parts import HostedParts
from .process import process_of
from .prompts import arguments, encode

ROOT = "diffusion_model"
"""the first word of an adapter's paths, as ComfyUI's LoRA files have it"""


class HostedModel:
    """See `contract.DiffusionModel` for the methods.

    Noise levels are the process's; what ComfyUI's network takes and gives is scaled in `predict` alone.
    """

    def __init__(self, ref: BaseModelRef, parts: HostedParts, family: HostedFamily, device: torch.device):
        self.ref, self.family, self.device = ref, family, device
        self.patcher, self.clip, self.vae = parts.model, parts.clip, parts.vae
        self.base = parts.model.model
        self.dtype: torch.dtype = self.base.get_dtype_inference()
        self.sampling = parts.model.get_model_object("model_sampling")
        self.process = process_of(self.sampling, family).to(device)
        self.learned_tokens: Mapping[str, Mapping[str, Tensor]] = {}
        self.before_predict: list[Callable[[Tensor], None]] = []
        self.embedding_folders: tuple[Any, ...] = ()
        self._checkpointed = ExitStack()

    # ------------------------------------------------------------------------------------------------- networks

    @property
    def denoiser(self) -> nn.Module:
        return self.base.diffusion_model

    def parts(self) -> dict[str, nn.Module]:
        return {ROOT: self.denoiser}

    def layers(self, group: str) -> Iterator[str]:
        pattern = self.family.groups.get(group)
        if pattern is None:
            return
        whole = re.compile(pattern)
        for path, module in self.denoiser.named_modules():
            if hasattr(module, "in_features") and hasattr(module, "out_features") and whole.fullmatch(path):
                yield f"{ROOT}.{path}"

    def input_name(self, path: str) -> str:
        return path

    def checkpointing(self, on: bool) -> None:
        self._checkpointed.close()
        self._checkpointed = checkpoint_blocks(self.denoiser) if on else ExitStack()

    def differentiable(self) -> AbstractContextManager[None]:
        return differentiable()

    def close(self) -> None:
        """Leave ComfyUI's objects as they were."""
        self._checkpointed.close()

    # ------------------------------------------------------------------------------------------------- latents

    @property
    def native_resolution(self) -> int:
        return self.family.resolution

    @property
    def downscale(self) -> int:
        return int(self.base.latent_format.spacial_downscale_ratio)

    @property
    def size_multiple(self) -> int:
        return max(self.family.size_multiple, self.downscale)

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        form, side = self.base.latent_format, self.downscale
        frames = (1,) if form.latent_dimensions == 3 else ()
        return (form.latent_channels, *frames, height // side, width // side)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of ComfyUI's autoencoders, which give no spread."""
        found = self.vae.encode(pixels.movedim(1, -1).float())
        with torch.inference_mode(False):
            mean = self.base.process_latent_in(found.clone().float()).to(self.device)
        shape = self.latent_shape(pixels.shape[-1], pixels.shape[-2])
        if mean[0].shape != shape:
            raise FewShotError(
                f"this VAE gives latents of {tuple(mean[0].shape)} and this MODEL draws {shape}: connect the VAE that "
                f"belongs to {self.family.title}"
            )
        return mean, torch.zeros_like(mean)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        found = self.vae.decode(self.base.process_latent_out(latents.float()))
        with torch.inference_mode(False):
            pixels = found.clone().float().to(self.device)
        return pixels.flatten(0, -4).movedim(-1, 1)  # frames of a video autoencoder are pictures of their own

    # ------------------------------------------------------------------------------------------------- prompts

    def encode_prompts(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return encode(self.clip, list(prompts), True, self.device)

    def encode_weighted(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return encode(self.clip, list(prompts), False, self.device)

    def size_conditioning(self, crops: Sequence[Any]) -> Tensor | None:
        return None

    # ------------------------------------------------------------------------------------------------- prediction

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
        return by_shape(self._of_one_shape, latents, t, conditioning, sizes)

    def _of_one_shape(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None) -> Tensor:
        for listener in self.before_predict:
            listener(self.process.noise_level(t))
        found = arguments(self.base, conditioning, latents)
        if len(found) == 1:
            return self._call(latents, t, found[0][1])
        order = [place for places, _ in found for place in places]
        rows = [self._call(rows_of(latents, places), rows_of(t, places), about) for places, about in found]
        return rows_of(torch.cat(rows), [order.index(i) for i in range(len(latents))])

    def _call(self, latents: Tensor, t: Tensor, about: Mapping[str, Any]) -> Tensor:
        """The network's own output: `apply_model` gives clean latents, from which it could only be got by division."""
        x, sigma = self._scaled(latents, t)
        outputs: list[Tensor] = []
        handle = self.denoiser.register_forward_hook(partial(_keep, outputs))
        try:
            self.base.apply_model(x, sigma, transformer_options={}, **about)
        finally:
            handle.remove()
        return outputs[0].to(torch.promote_types(outputs[0].dtype, torch.float32))

    def _scaled(self, latents: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and sigmas as ComfyUI has them: x0 + sigma noise, but of flows."""
        if self.process.prediction == "velocity":
            return latents, t.float()
        signal = self.process.signal(t)
        return latents / beside(signal, latents), (1 / signal.square() - 1).sqrt()


def _keep(outputs: list[Tensor], _: nn.Module, __: Any, output: Tensor) -> None:
    outputs.append(output)
