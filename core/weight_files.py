"""Files of weights: opening them lazily and safely, and saying what a file is that is no base model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .broken_files import describe_broken
from .errors import FewShotError

SUFFIXES = (".safetensors", ".ckpt")


class _Lazy(Mapping):
    """The tensors of an open safetensors file, read when asked for."""

    def __init__(self, handle):
        self._handle = handle
        self._keys = dict.fromkeys(handle.keys())

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        return self._handle.get_tensor(key)

    def __contains__(self, key) -> bool:
        return key in self._keys

    def __iter__(self):
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


DRAFT = ".draft"
"""the ending of a .safetensors file that has not got its name yet, so that no list of models shows it"""


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[Mapping[str, Tensor], dict[str, str]]]:
    """The tensors (on the CPU) and the metadata of a .safetensors file or of a pickled one, which may run no code.

    Raises FewShotError when the file is missing, truncated, or not what its name says.
    """
    if not path.is_file():
        raise FewShotError(f"there is no file {path}: choose one that exists")
    if path.suffix in (".safetensors", DRAFT):
        try:
            handle = safe_open(str(path), framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise FewShotError(describe_broken(path)) from error
        with handle:
            yield _Lazy(handle), dict(handle.metadata() or {})
    else:
        yield _unpickled(path), {}


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    found = load_pickled(path)
    found = found.get("state_dict", found) if isinstance(found, dict) else {}
    named = found.items() if isinstance(found, dict) else ()
    tensors = {key: value for key, value in named if isinstance(value, Tensor)}
    if not tensors:
        raise FewShotError(f"{path.name} holds no weights by name: choose a .safetensors checkpoint")
    for key, tensor in tensors.items():
        if not isinstance(key, str):
            raise FewShotError(
                f"{path.name} holds a tensor under {key!r}, which is no name: choose a .safetensors file"
            )
        check_dense(f"{key} in {path.name}", tensor)
    return tensors


def check_dense(name: str, tensor: Tensor) -> None:
    """Raise FewShotError for what only pickled files can hold: tensors without numbers, or with fewer than they say."""
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.layout is not torch.strided:
        kind = "no numbers" if tensor.is_meta else "sparse, nested or quantized numbers"
    elif tensor.numel() * tensor.element_size() > (stored := tensor.untyped_storage().nbytes()):
        kind = f"{stored} bytes for the shape {tuple(tensor.shape)}"
    else:
        return
    raise FewShotError(f"{name} holds {kind}, which is not read here: choose a .safetensors file")


def load_pickled(path: Path) -> Any:
    """What a pickled file holds, read without running code in it; a damaged one makes the unpickler raise anything."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # the format before torch 1.6 cannot be mapped
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            refused = isinstance(error, torch.serialization.pickle.UnpicklingError)
            raise FewShotError(describe_broken(path, refused)) from error


def check_weights(path: Path) -> None:
    """Raise FewShotError that says what is wrong where a file of weights cannot be read."""
    with open_tensors(path):
        pass


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, remembered by path, size and time."""
    status = path.stat()
    return _file_hash(str(path.resolve()), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _file_hash(path: str, size: int, time: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


LORA = "a LoRA"
_LORA_MARKS = (
    ".lora_up.", ".lora_down.", ".lora_A", ".lora_B", "_lora.up.", ".lora.up.", ".lora_linear_layer.", ".hada_w1_a",
    ".lokr_w1", ".oft_blocks", ".oft_R", ".diff_b", ".set_weight", ".w_norm", ".on_input", ".dora_scale",
)  # fmt: skip
# In order: what tells a kind of file by its names, and what to say of it.
_OTHER_KINDS: tuple[tuple[tuple[str, ...], str], ...] = (
    (_LORA_MARKS, LORA),
    (("emb_params", "string_to_param"), "a textual-inversion embedding"),
    (("control_model.", "controlnet_", "zero_convs.", "controlnet_cond_embedding."), "a ControlNet"),
    (("double_blocks.",), "a Flux model"),
    (("joint_blocks.", "joint_transformer_blocks."), "a Stable Diffusion 3 model"),
    (("double_layers.",), "an AuraFlow model"),
    (("cap_embedder.",), "a Lumina or Z-Image model"),
    (("txt_in.individual_token_refiner",), "a Hunyuan video model"),
    (("img_in.weight", "txt_norm.weight"), "a Qwen-Image model"),
    (("patchify_proj.",), "an LTX video model"),
    (("clip_txt_mapper.", "effnet_mapper."), "a Stable Cascade model"),
    (("vision_model.encoder", "visual_projection."), "a CLIP vision model"),
)
_WEIGHTS_ONLY = (
    (("down_blocks.0.resnets", "input_blocks.0.0.weight"), "only a UNet, without text encoder and autoencoder"),
    (("decoder.conv_in.weight", "first_stage_model.decoder"), "only an autoencoder (VAE)"),
    (("text_model.encoder.layers.0.", "token_embedding.weight"), "only a text encoder"),
)


def other_kind(keys: Mapping[str, Tensor]) -> str:
    """What a file is that is no base model of a supported family, from the names of its tensors."""
    if len(keys) <= 2 and any(key in keys for key in ("clip_l", "clip_g", "clip_h")):
        return "a textual-inversion embedding"
    for marks, kind in (*_OTHER_KINDS, *_WEIGHTS_ONLY):
        if any(mark in key for key in keys for mark in marks):
            return kind
    return f"no diffusion model that is known here (its first names: {', '.join(sorted(keys)[:3]) or 'none'})"
