"""What the engine knows of a base model: nothing of its networks' classes, its text encoders or its latents' sizes.

An opened model is frozen, and let go when its context ends. `stable_diffusion.model.StableDiffusion` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core.values import BaseModelRef
from .attention import AttentionLayer, RecordedAttention
from .conditioning import Conditioning, Embeddings
from .process import DiffusionProcess

TEXT = "text_encoder"
"""what the paths of an adapter's layers in text encoders begin with; all others lie in the denoiser"""


def in_denoiser(path: str) -> bool:
    """Whether an adapter's path is that of a layer of the denoiser."""
    return not path.startswith(TEXT)


class ModelFamily(Protocol):
    """A family of base models: `name` in files and keys, `title` for people."""

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...


class DiffusionModel(Protocol):
    """An opened base model.

    `dtype` is the compute type of its frozen weights. `words` are learned vectors by the words that stand for them in
    prompts. `before_predict` are called with the noise levels (B,) of each call of the denoiser. The networks
    themselves are there to be counted, moved and trained in: `denoiser`, `autoencoder`, `text_encoders`.
    """

    ref: BaseModelRef
    device: torch.device
    dtype: torch.dtype
    words: Mapping[str, Mapping[str, Tensor]]
    before_predict: list[Callable[[Tensor], None]]

    @property
    def family(self) -> ModelFamily: ...

    @property
    def process(self) -> DiffusionProcess: ...

    @property
    def denoiser(self) -> Any: ...

    @property
    def autoencoder(self) -> Any: ...

    @property
    def text_encoders(self) -> Sequence[Any]: ...

    @property
    def resolution(self) -> int:
        """The side in pixels that the model was made for."""
        ...

    @property
    def downscale(self) -> int:
        """Pixels along a side of a latent cell; sides of pictures are multiples of it."""
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
        """The conditioning of prompts, one row each; `embeddings` are learned words besides the model's own."""
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

    def count_tokens(self, prompt: str) -> int:
        """How many tokens of `prompt` fit, without those that begin and end it."""
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

    def parts(self) -> Mapping[str, nn.Module]:
        """The networks that adapters may change, by the first part of a module's path; see `in_denoiser`."""
        ...

    def layers(self, group: str) -> Iterator[str]:
        """Paths of the layers of a group that an adapter may sit on; none where the model has no such group.

        Layers in which picture and text attend to both at once are of the group "cross" as well as of "self".
        """
        ...

    def checkpointing(self, on: bool) -> None:
        """Whether the denoiser computes anew in the backward pass what it did not keep in the forward one."""
        ...
