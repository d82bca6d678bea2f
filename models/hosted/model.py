"""A base model that ComfyUI has loaded, as a `contract.DiffusionModel`: its own network, encoder and autoencoder."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...core.errors import FewShotError
from ...core.values import BaseModelRef
from ..adapters.apply import is_linear
from ..attention import AttentionLayer, RecordedAttention
from ..conditioning import Conditioning, Embeddings, by_shape, rows_of
from ..contract import ParameterCounts
from ..memory.weightless import META
from ..process import beside
from ..public_names import HOSTED_ROOT as ROOT
from . import words
from .families import HostedFamily
from .host import comfy
from .in_place import as_loaded, checkpoint_blocks, differentiable
from .memory import HostedCosts, counts, fused_attention, weightless_base
from .parts import HostedParts
from .process import process_of, sampling_of
from .prompts import arguments, encode, kept

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

CHOOSE = "choose attention, feed_forward or attention_ff as parameter_set, and tuning low_rank"
UNTRAINED = {
    "cross_kv": "there are no keys and values of the prompt alone in the joint attention",
    "text": "the text encoder is ComfyUI's, and is not trained. Switch text_encoder off. Of the layers",
    "all": "the weights are ComfyUI's and stay as they are, so they cannot be trained in full. Of the layers",
}
"""why sets of layers cannot be trained"""
NO_ATTENTION = "which attention of this model says where things are is not known yet: set local_weight to 0"


class HostedModel:
    """See `contract.DiffusionModel` for the methods.

    Noise levels are the process's; what ComfyUI's network takes and gives is scaled in `predict` alone.
    """

    def __init__(self, ref: BaseModelRef, parts: HostedParts, family: HostedFamily, device: torch.device):
        self.ref, self.family, self.device = ref, family, device
        self.hosted, self.clip, self.vae = parts, parts.clip, parts.vae
        self.base = parts.model.model
        self.dtype: torch.dtype = self.base.get_dtype_inference()
        self.process = process_of(sampling_of(parts.model), family).to(device)
        self.learned_tokens: Mapping[str, Mapping[str, Tensor]] = {}
        self.before_predict: list[Callable[[Tensor], None]] = []
        self.embedding_folders: tuple[Any, ...] = ()
        self._checkpointed = ExitStack()
        self.reading = device  # where encoded prompts lie: with their values, also where the network has none
        self._encoded: dict[tuple[bool, str], Conditioning] = {}

    # ------------------------------------------------------------------------------------------------- networks

    @property
    def denoiser(self) -> nn.Module:
        return self.base.diffusion_model

    def parts(self) -> dict[str, nn.Module]:
        return {ROOT: self.denoiser}

    text_encoders = tokenizers = ()
    owns_weights = False

    def parameter_counts(self) -> ParameterCounts:
        return counts(self.hosted)

    def offloadable(self, reads_text: bool) -> list[nn.Module]:
        return []

    def layers(self, group: str) -> Iterator[str]:
        if group in UNTRAINED:
            raise FewShotError(f"{UNTRAINED[group]} of {self.family.title}: {CHOOSE}")
        pattern = self.family.groups.get(group)
        if pattern is None:
            return
        known = comfy().lora.model_lora_keys_unet(self.base, {})
        found = False
        whole = re.compile(pattern)
        for path, module in self.denoiser.named_modules():
            if is_linear(module) and whole.fullmatch(path) and f"{ROOT}.{path}" in known:
                found = True
                yield f"{ROOT}.{path}"
        if not found:
            kinds = sorted(
                {type(module).__name__ for path, module in self.denoiser.named_modules() if whole.match(path)}
            )
            raise FewShotError(
                f"no layer of {group} in this {self.family.title} can have an adapter beside it"
                f"{': its loader put others in their place (' + ', '.join(kinds[:4]) + ')' if kinds else ''}. Load the "
                "model with one of ComfyUI's own loaders, or choose another parameter_set"
            )

    def input_name(self, path: str) -> str:
        return path

    def checkpointing(self, on: bool) -> None:
        self._checkpointed.close()
        self._checkpointed = checkpoint_blocks(self.denoiser) if on else ExitStack()

    def differentiable(self) -> AbstractContextManager[None]:
        return differentiable(values=self.device != META)

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
        pictures = pixels.movedim(1, -1).float()
        at_once = 1 if self.vae.latent_dim == 3 else len(pictures)  # several would be the frames of one video
        with as_loaded(self.vae.first_stage_model):
            found = [self.vae.encode(part) for part in pictures.split(at_once)]
        mean = self.base.process_latent_in(torch.cat([kept(part, self.device) for part in found]).float())
        shape = self.latent_shape(pixels.shape[-1], pixels.shape[-2])
        if mean[0].shape != shape:
            raise FewShotError(
                f"this VAE gives latents of {tuple(mean[0].shape)} and this MODEL draws {shape}: connect the VAE that "
                f"belongs to {self.family.title}"
            )
        return mean, torch.zeros_like(mean)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        unscaled = self.base.process_latent_out(latents.float())
        with as_loaded(self.vae.first_stage_model):
            found = self.vae.decode(unscaled)
        pixels = kept(found, self.device).float()
        return pixels.flatten(0, -4).movedim(-1, 1)  # frames of a video autoencoder are pictures of their own

    # ------------------------------------------------------------------------------------------------- prompts

    def encode_prompts(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return self._encode(prompts, True)

    def encode_weighted(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        return self._encode(prompts, False)

    def _encode(self, prompts: Sequence[str], literally: bool) -> Conditioning:
        """Each prompt once, however often it is asked for: to read one ComfyUI may have to move whole networks."""
        for prompt in prompts:
            if (literally, prompt) not in self._encoded:
                made = encode(self.clip, [prompt], literally, self.reading)
                if not self._encoded:
                    self._check_readable(made)
                self._encoded[literally, prompt] = made
        return Conditioning.cat([self._encoded[literally, prompt] for prompt in prompts])

    def _check_readable(self, conditioning: Conditioning) -> None:
        """Raise FewShotError where the network cannot read what this CLIP gives, seen by shapes alone."""
        side = 4 * self.size_multiple
        latents, t = torch.empty(1, *self.latent_shape(side, side), device=META), self.process.times[:1].to(META)
        twin = self if self.device == META else self.without_weights(self.dtype)
        try:
            with torch.no_grad():
                twin.predict(latents, t, conditioning)
        except (RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise FewShotError(
                f"a {self.family.title} cannot read what a {type(self.clip.cond_stage_model).__name__} gives "
                f"({str(error).splitlines()[0][:120]}). Connect the CLIP that belongs to the MODEL, and look at the "
                "type in the node that loads it"
            ) from error

    @property
    def token_limit(self) -> int:
        return self.family.token_limit + 2  # as if there were tokens that begin and end a prompt

    def count_tokens(self, prompt: str, whole: bool = False) -> int:
        found = words.count(words.tokenizer_of(self.clip), prompt)
        return found if whole else min(found, self.family.token_limit)

    def token_positions(self, prompt: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return words.positions(words.tokenizer_of(self.clip), prompt, spans, self.family.token_limit)

    # ------------------------------------------------------------------------------------------------- attention

    def attention_layers(self, height: int, width: int) -> tuple[AttentionLayer, ...]:
        raise FewShotError(NO_ATTENTION)

    def record_attention(self, layers: Sequence[Any]) -> AbstractContextManager[RecordedAttention]:
        raise FewShotError(NO_ATTENTION)

    # ------------------------------------------------------------------------------------------------- memory

    def autoencoder_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return self.vae.vae_dtype

    def activation_costs(self) -> HostedCosts:
        return HostedCosts(self.without_weights(self.dtype), self.vae)

    def without_weights(self, dtype: torch.dtype) -> Self:
        made = copy.copy(self)
        made.base = weightless_base(self.base, dtype, self.dtype)
        made.device, made.dtype, made.process = META, dtype, self.process.to(META)
        made.learned_tokens, made.before_predict, made._checkpointed = {}, [], ExitStack()
        return made

    # ------------------------------------------------------------------------------------------------- prediction

    def size_conditioning(self, crops: Sequence[Any]) -> Tensor | None:
        return None

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
        return by_shape(self._of_one_shape, latents, t, conditioning, sizes)

    def _of_one_shape(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None) -> Tensor:
        for listener in self.before_predict:
            listener(self.process.noise_level(t))
        found = arguments(self.base, conditioning, torch.zeros_like(latents, device=self.reading))
        if self.device == META:
            found = [(places, tree_map_only(Tensor, lambda t: t.to(META), about)) for places, about in found]
        if len(found) == 1:
            return self._call(latents, t, found[0][1])
        order = [place for places, _ in found for place in places]
        rows = [self._call(rows_of(latents, places), rows_of(t, places), about) for places, about in found]
        return rows_of(torch.cat(rows), [order.index(i) for i in range(len(latents))])

    def _call(self, latents: Tensor, t: Tensor, about: Mapping[str, Any]) -> Tensor:
        """The network's own output: `apply_model` gives clean latents, from which it could only be got by division."""
        if self.device.type == "cuda" and self.base.device != self.device:  # to read a prompt ComfyUI made room
            with as_loaded(self.base):
                comfy().model_management.load_models_gpu([self.hosted.model], force_full_load=True)
        x, sigma = self._scaled(latents, t)
        outputs: list[Tensor] = []
        handle = self.denoiser.register_forward_hook(partial(_keep, outputs))
        options = {"optimized_attention_override": fused_attention} if self.device == META else {}
        try:
            self.base.apply_model(x, sigma, transformer_options=options, **about)
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
