"""Putting networks together from configs and tensors, wherever those come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ....core.errors import FewShotError
from ....core.values import BaseModelRef, Loaded
from ....core.weight_files import open_tensors
from ..variants import CONFIGS, Family, TextEncoder
from .configs import LATENT_SCALE, read_config, text_config, unet_config, vae_config
from .names import UNET, current_vae_names, text_prefixes, text_tensors, unet_tensors, vae_tensors, with_text_model

Part = tuple[dict[str, Any], Mapping[str, Tensor]]
"""A network's config and its parameters in diffusers' or transformers' names"""


class Source(Protocol):
    """Where a base model's parts come from."""

    tokenizers: Path | None
    """a folder in diffusers' layout that may have tokenizer folders"""

    def unet(self) -> Part: ...

    def vae(self) -> Part: ...

    def text(self, encoder: TextEncoder) -> Part: ...

    def scheduler(self) -> dict[str, Any]: ...


class OriginalCheckpoint:
    """A checkpoint in original names; what shapes do not say comes from `configs`, by default the family's stock.

    Text encoders and the autoencoder may have folders of their own, see `Loaded.elsewhere`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        family: Family,
        configs: Path | None = None,
        prediction: str = "epsilon",
        elsewhere: Mapping[str, Path | None] = MappingProxyType({}),
    ):
        stock = CONFIGS / family.name
        self.tokenizers = elsewhere.get("text", configs)
        self._resolution = family.epsilon_resolution if prediction == "epsilon" and configs is None else None
        self.tensors, self._family, self._configs = tensors, family, configs or stock
        self._text_configs = self.tokenizers or stock
        self._autoencoder_configs = elsewhere.get("autoencoder", configs) or stock

    def unet(self) -> Part:
        mine = {key: self.tensors[key] for key in self.tensors if key.startswith(UNET)}
        config = unet_config(mine, read_config(self._configs, "unet"))
        if self._resolution:
            config["sample_size"] = self._resolution // self._family.downscale
        return config, unet_tensors(mine, config["layers_per_block"])

    def vae(self) -> Part:
        config = vae_config(self.tensors, read_config(self._autoencoder_configs, "vae"))
        if self._autoencoder_configs != self._configs:  # the scale of the latents is the denoiser's
            scale = read_config(self._configs, "vae").get("scaling_factor", LATENT_SCALE)
            config["scaling_factor"] = scale
        return config, vae_tensors(self.tensors, len(config["block_out_channels"]))

    def text(self, encoder: TextEncoder) -> Part:
        starts = text_prefixes(encoder)
        mine = {key: self.tensors[key] for key in self.tensors if key.startswith(starts)}
        tensors = text_tensors(mine, encoder, self._family.unused_layers)
        return text_config(tensors, read_config(self._text_configs, encoder.component)), tensors

    def scheduler(self) -> dict[str, Any]:
        return read_config(self._configs, "scheduler")


class ModelFolder:
    """A folder in diffusers' layout."""

    def __init__(self, folder: Path, family: Family):
        self.tokenizers: Path | None = folder
        self._folder = folder

    def unet(self) -> Part:
        return read_config(self._folder, "unet"), self._tensors("unet")

    def vae(self) -> Part:
        return read_config(self._folder, "vae"), current_vae_names(self._tensors("vae"))

    def text(self, encoder: TextEncoder) -> Part:
        found = self._tensors(encoder.component)
        config = read_config(self._folder, encoder.component)
        return config, {with_text_model(name): tensor for name, tensor in found.items()}

    def scheduler(self) -> dict[str, Any]:
        return read_config(self._folder, "scheduler")

    def _tensors(self, component: str) -> dict[str, Tensor]:
        """All shards' tensors; on the CPU they stay mapped to the files until they are cast."""
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in _weight_files(self._folder / component):
                tensors, _ = stack.enter_context(open_tensors(path))
                found.update({key: tensors[key] for key in tensors})
        return found


def _weight_files(folder: Path) -> list[Path]:
    """The files of one set of weights: the full-precision ones before the ".fp16." ones, safetensors before pickles."""
    for suffix in ("safetensors", "bin"):
        for stem in ("diffusion_pytorch_model", "model", "pytorch_model"):
            for variant in ("", ".fp16"):
                name = f"{stem}{variant}.{suffix}"
                indexes = (folder / f"{stem}.{suffix}.index{variant}.json", folder / f"{name}.index.json")
                index = next((path for path in indexes if path.is_file()), None)
                if index is not None:
                    return sorted({folder / shard for shard in json.loads(index.read_text())["weight_map"].values()})
                if (folder / name).is_file():
                    return [folder / name]
    raise FewShotError(f"{folder} holds no weights (a .safetensors file): the model folder is incomplete")


@contextmanager
def source_of(ref: BaseModelRef, family: Family) -> Iterator[Source]:
    """Where the parts of `ref` come from, open within the context."""
    location = ref.location
    if isinstance(location, Loaded):
        yield OriginalCheckpoint(location.state_dict(), family, location.components, ref.prediction, location.elsewhere)
    elif location.is_dir():
        yield ModelFolder(location, family)
    else:
        with open_tensors(location) as (tensors, _):
            yield OriginalCheckpoint(tensors, family, prediction=ref.prediction)


# --------------------------------------------------------------------------------------------------------- building


def assemble(
    kind: type | TextEncoder,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    strict: bool = False,
) -> Any:
    """A frozen network of a diffusers class, or a text encoder, with copies of `tensors` on `device` in `dtype`.

    With `strict` a tensor without a place is an error too: the network would be another than the file's.
    """
    with init_empty_weights(include_buffers=False):
        if isinstance(kind, TextEncoder):
            network: nn.Module = empty_text_encoder(kind, config)
        else:
            network = kind.from_config(dict(config))
    given = tensors
    if not hasattr(network, "text_model") and isinstance(kind, TextEncoder):
        given = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    weights = {}
    for name, parameter in network.named_parameters():
        if name not in given or given[name].shape != parameter.shape:
            what = f"has the shape {tuple(given[name].shape)}" if name in given else "is missing"
            raise FewShotError(
                f"the weights do not fit {type(network).__name__}: {name} {what}, and {tuple(parameter.shape)} is "
                "needed; the file is damaged or of an unsupported variant"
            )
        weights[name] = given[name].to(device=device, dtype=dtype, copy=True).contiguous()
    if strict and (extra := sorted(set(given) - set(weights))):
        raise FewShotError(
            f"{len(extra)} weights have no place in {type(network).__name__} (first {extra[0]}): the file is of an "
            "unsupported variant"
        )
    network.load_state_dict(weights, strict=False, assign=True)
    return network.to(device).eval().requires_grad_(False)


def autoencoder_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The type that an autoencoder computes in beside a denoiser in `dtype`: SDXL's overflows in float16."""
    return torch.float32 if dtype == torch.float16 and config.get("force_upcast", True) else dtype


def empty_text_encoder(names: TextEncoder, config: Mapping[str, Any]) -> nn.Module:
    known = CLIPTextConfig.from_dict({**config, "model_type": "clip_text_model"})
    return (CLIPTextModelWithProjection if names.projected else CLIPTextModel)(known)


def comfyui_tokenizer(comfyui: Path | None) -> Path | None:
    """The folder of CLIP's vocabulary that a ComfyUI's folder holds; None where there is no ComfyUI, or none in it."""
    folder = comfyui / "comfy" / "sd1_tokenizer" if comfyui is not None else None
    return folder if folder is not None and folder.is_dir() else None


def build_tokenizer(source: Source, names: TextEncoder, shared: Path | None) -> CLIPTokenizer:
    """The tokenizer that the model brings, else CLIP's from the folder `shared`, padded as the family pads."""
    own = source.tokenizers / names.tokenizer if source.tokenizers else None
    if own is not None and _has_tokenizer(own):
        return CLIPTokenizer.from_pretrained(str(own), local_files_only=True)
    if shared is None or not _has_tokenizer(shared):
        raise FewShotError(
            f"there is no tokenizer for {names.component}: the model brings none, and "
            f"{shared or 'no folder'} was given; name a folder with CLIP's vocab.json and merges.txt "
            "(ComfyUI ships them in comfy/sd1_tokenizer)"
        )
    pad: dict[str, Any] = {} if names.pad is None else {"pad_token": names.pad}
    return CLIPTokenizer.from_pretrained(str(shared), local_files_only=True, **pad)


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or all((folder / n).is_file() for n in ("vocab.json", "merges.txt"))
