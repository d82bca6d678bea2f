"""An opened Stable Diffusion: its networks, as diffusers and transformers have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...core.values import BaseModelRef
from ..contract import ParameterCounts
from ..memory.weightless import META, autocast, weightless
from ..process import DiffusionProcess
from ..public_names import DENOISER_ROOT
from .encoding.prompt_tokens import Tokens
from .files.load import autoencoder_dtype
from .variants import Family

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11


@dataclass
class Networks:
    """An opened base model. `dtype` is the compute type of its frozen weights; the autoencoder's may be wider.

    `learned_tokens` are the learned words that prompts may hold, as in `conditioning.Embeddings`. `before_predict` are
    called with the noise levels (B,) of each call of the denoiser, by which some adapters count (`timestep_range`).
    `tokens` are the prompts that were encoded so far. In `embedding_folders` lie the files that "embedding:name" in a
    prompt to be drawn stands for.
    """

    unet: Any
    vae: Any
    text_encoders: tuple
    tokenizers: tuple
    process: DiffusionProcess
    family: Family
    device: torch.device
    dtype: torch.dtype
    ref: BaseModelRef
    learned_tokens: Mapping[str, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    before_predict: list[Callable[[torch.Tensor], None]] = field(default_factory=list)
    tokens: Tokens = field(default_factory=Tokens)
    embedding_folders: tuple[Path, ...] = ()

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    @property
    def downscale(self) -> int:
        """Pixels along a side of a latent cell."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def native_resolution(self) -> int:
        """The side in pixels that the model was made for."""
        return int(self.unet.config.sample_size or self.family.resolution // self.downscale) * self.downscale

    @property
    def denoiser(self) -> Any:
        return self.unet

    @property
    def owns_weights(self) -> bool:
        return True

    def parameter_counts(self) -> ParameterCounts:
        def count(*modules: torch.nn.Module) -> int:
            return sum(p.numel() for network in modules for p in network.parameters())

        return ParameterCounts(count(self.unet), count(self.vae), count(*self.text_encoders))

    def offloadable(self, reads_text: bool) -> list[torch.nn.Module]:
        return [self.vae, *(() if reads_text else self.text_encoders)]

    def differentiable(self) -> AbstractContextManager[None]:
        on_meta = self.device.type == "meta"  # for which torch has no autocast, as `predict` uses elsewhere
        return autocast(self.dtype) if on_meta else nullcontext()

    def without_weights(self, dtype: torch.dtype) -> Self:
        types = {self.dtype: dtype}
        own = dict(learned_tokens={}, before_predict=[], tokens=Tokens(), dtype=dtype, device=META)
        return replace(
            self, unet=weightless(self.unet, types=types), process=self.process.to(META),
            vae=weightless(self.vae, types={self.vae.dtype: autoencoder_dtype(self.vae.config, dtype)}),
            text_encoders=tuple(weightless(encoder, types=types) for encoder in self.text_encoders), **own,
        )  # fmt: skip

    def parts(self) -> dict[str, torch.nn.Module]:
        encoders = zip(self.family.text_encoders, self.text_encoders, strict=True)
        return {DENOISER_ROOT: self.unet, **{names.component: network for names, network in encoders}}

    def close(self) -> None:
        """Let the weights go, whoever still holds this object."""
        self.unet = self.vae = None
        self.text_encoders = self.tokenizers = ()
        self.learned_tokens = {}
        self.tokens = Tokens()
