"""What the engine knows of a base model: nothing of its networks' classes, its text encoders or its latents' sizes.

An opened model is frozen, and let go when its context ends. `stable_diffusion.model.StableDiffusion` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..core.values import BaseModelRef
from .attention import AttentionLayer, RecordedAttention
from .conditioning import Conditioning, Embeddings
from .process import DiffusionProcess

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11


class ModelFamily(Protocol):
    """A family of base models: `name` in files and keys, `title` for people.

    `guidance` and `learning_rate` are those that its users take; None where they are those of Stable Diffusion.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def guidance(self) -> float | None: ...

    @property
    def learning_rate(self) -> float | None: ...


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes of one image in a training step of the denoiser: everything stored, or with gradient checkpointing.

    `once` are bytes that a pass takes however many images are in it.
    """

    stored: float
    checkpointed: float
    once: float = 0.0

    def beside(self, more: float, once: float = 0.0) -> ActivationMemory:
        """With `more` bytes an image, which checkpointing does not change."""
        return ActivationMemory(self.stored + more, self.checkpointed + more, self.once + once)

    def bytes(self, checkpointing: bool) -> float:
        return self.checkpointed if checkpointing else self.stored

    def together(self, number: int, checkpointing: bool) -> float:
        """Bytes of a pass of `number` images."""
        return number * self.bytes(checkpointing) + self.once


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters of the frozen networks, in units of the type that they compute in where they are stored in less."""

    denoiser: float
    autoencoder: float
    text: float


class ActivationCosts(Protocol):
    """Bytes that networks take beside their weights. It holds no weights, and stays when a model is closed.

    `side` is of square pictures, in pixels; `half` says that the frozen weights are in half precision, `itemsize` how
    many bytes the autoencoder's have. `adapters` are the layer groups that are trained: self, cross, feed_forward.
    """

    def training(self, side: int, half: bool, adapters: Collection[str]) -> ActivationMemory:
        """What the denoiser stores for the backward pass of one image."""
        ...

    def sampling(self, side: int, half: bool, adapters: Collection[str]) -> float:
        """The denoiser's peak for one row without a backward pass; guidance takes it twice."""
        ...

    def encoding(self, side: int, itemsize: int) -> float:
        """The autoencoder's peak when it encodes one image."""
        ...

    def decoding(self, side: int, itemsize: int) -> float:
        """The autoencoder's peak when it decodes one image."""
        ...

    def prompt(self, half: bool, adapters: bool) -> float:
        """What the text encoders store for the backward pass of one prompt, with or without adapters."""
        ...


class DiffusionModel(Protocol):
    """An opened base model.

    `dtype` is the compute type of its frozen weights. `learned_tokens` are learned vectors by the words that stand for
    them in prompts. `before_predict` are called with the noise levels (B,) of each call of the denoiser.
    `text_encoders` and their `tokenizers` are those that can be trained in, and whose words can be learned.
    """

    ref: BaseModelRef
    device: torch.device
    dtype: torch.dtype
    learned_tokens: Mapping[str, Mapping[str, Tensor]]
    before_predict: list[Callable[[Tensor], None]]

    @property
    def family(self) -> ModelFamily: ...

    @property
    def process(self) -> DiffusionProcess: ...

    @property
    def denoiser(self) -> Any: ...

    @property
    def text_encoders(self) -> Sequence[Any]: ...

    @property
    def tokenizers(self) -> Sequence[Any]: ...

    @property
    def owns_weights(self) -> bool:
        """Whether its weights may be changed and converted: those of a host may not, and are moved by it alone."""
        ...

    def parameter_counts(self) -> ParameterCounts:
        """How large the frozen networks are."""
        ...

    def offloadable(self, reads_text: bool) -> list[nn.Module]:
        """The networks that a step needs no more once pictures and prompts are encoded, the autoencoder first.

        None where a host moves them. Text encoders are left out where a step `reads_text`.
        """
        ...

    def differentiable(self) -> AbstractContextManager[None]:
        """Around each forward pass that a backward pass follows, and around that."""
        ...

    @property
    def native_resolution(self) -> int:
        """The side in pixels that the model was made for."""
        ...

    @property
    def downscale(self) -> int:
        """Pixels along a side of a latent cell; sides of pictures are multiples of it."""
        ...

    @property
    def size_multiple(self) -> int:
        """What the sides in pixels of pictures to train on are multiples of."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, ...]:
        """The shape of one picture's latents, without the batch, for a size in pixels."""
        ...

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pictures (B, 3, H, W) in [0, 1]; scaled, float32."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1], float32. Differentiable."""
        ...

    def encode_prompts(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        """The conditioning of captions, taken literally; `embeddings` are learned words besides the model's own."""
        ...

    def encode_weighted(self, prompts: Sequence[str], embeddings: Embeddings | None = None) -> Conditioning:
        """The conditioning of prompts to be drawn, as ComfyUI reads them: with weights, escapes and "embedding:name".

        Prompts of any length are read whole; those of one window that mean themselves are as of `encode_prompts`.
        """
        ...

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning, sizes: Tensor | None = None) -> Tensor:
        """The denoiser's prediction in float32 for noisy latents (B, ...) at times (B,).

        Rows whose conditioning has one shape are computed in one call, the others in further ones (`predict.by_shape`).
        `sizes` are rows of `size_conditioning`; without them pictures are whole and have the latents' size.
        """
        ...

    def size_conditioning(self, crops: Sequence[Any]) -> Tensor | None:
        """What the model is told of each crop's `original` size, `corner` and `target` size; None where of none."""
        ...

    @property
    def token_limit(self) -> int:
        """How many tokens of a prompt the model reads, with those that begin and end it."""
        ...

    def count_tokens(self, prompt: str, whole: bool = False) -> int:
        """How many tokens of `prompt` fit, without those that begin and end it; of the `whole`, also what does not."""
        ...

    def token_positions(self, prompt: str, spans: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        """Positions of the tokens in spans (start, end) of whole words, in characters; those that fit."""
        ...

    def attention_layers(self, height: int, width: int) -> tuple[AttentionLayer, ...]:
        """The layers whose attention says where things are, for latents (height, width), the finest first.

        Raises:
            FewShotError: the family has none.
        """
        ...

    def record_attention(self, layers: Sequence[Any]) -> AbstractContextManager[RecordedAttention]:
        """Keep what these layers compute in the one `predict` within the context, by its rows."""
        ...

    def autoencoder_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The type that the autoencoder computes in beside a denoiser in `dtype`."""
        ...

    def parts(self) -> Mapping[str, nn.Module]:
        """The networks that adapters may change, by the first part of a module's path (`public_names`)."""
        ...

    def layers(self, group: str) -> Iterator[str]:
        """Paths of the layers of a group that an adapter may sit on; none where the model has no such group.

        Layers in which picture and text attend to both at once are of the group "cross" as well as of "self".
        """
        ...

    def input_name(self, path: str) -> str:
        """The name of what the layer at `path` reads; layers that read the same tensor have one."""
        ...

    def without_weights(self, dtype: torch.dtype) -> Self:
        """A copy in a compute type on the meta device: shapes and types alone, by which memory is measured."""
        ...

    def activation_costs(self) -> ActivationCosts:
        """What the networks take beside their weights."""
        ...

    def checkpointing(self, on: bool) -> None:
        """Whether the denoiser computes anew in the backward pass what it did not keep in the forward one."""
        ...
