"""Opening base models: a checkpoint file, a folder in diffusers' layout, or weights that the host holds.

Nothing here reaches the network. Weights are read tensor by tensor, cast, and put where they are to work; they are
frozen, and let go when the context ends.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ..core.errors import FewShotError
from ..core.progress import NullProgress, Progress
from ..core.values import BaseModelRef, Loaded, content_key
from ..core.weight_files import SUFFIXES, file_hash, open_tensors
from .contract import DiffusionModel
from .hosted.families import family_of
from .hosted.key import parts_key
from .hosted.open import opened as opened_in_place
from .hosted.parts import HostedParts
from .hosted.process import process_of, sampling_of
from .stable_diffusion.files.identify import Identity, folder_hash, identify_folder, identify_tensors
from .stable_diffusion.model import StableDiffusion
from .stable_diffusion.open import Placement, open_networks

log = logging.getLogger(__name__)

REVISION = 1
"""raised when the same weights begin to give other results"""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


# ------------------------------------------------------------------------------------------------------ references


def base_from_path(path: Path, dtype: str = "auto", clip_skip: int = 0) -> BaseModelRef:
    """The base model in a .safetensors or .ckpt file or in a folder in diffusers' layout.

    `clip_skip` counts text layers from the end as A1111 does (1 is the last, 2 the last but one); 0 is the family's
    default. Raises FewShotError when the path is missing, damaged, or something else than a supported base model.
    """
    path = Path(path)
    if path.is_dir():
        identity, weights = identify_folder(path), folder_hash(path)
    elif path.suffix in SUFFIXES:
        with open_tensors(path) as (tensors, metadata):
            identity = identify_tensors(tensors, metadata, path.name)
        weights = file_hash(path)
    elif path.exists():
        raise FewShotError(f"{path.name} is no kind of file that holds a base model: choose a .safetensors file")
    else:
        raise FewShotError(f"there is no base model at {path}: choose one that exists")
    return _reference(identity, path, weights, dtype, clip_skip)


def base_from_parts(parts: HostedParts) -> BaseModelRef:
    """The base model that ComfyUI has loaded, which is trained in its own networks.

    Raises FewShotError where it draws no pictures, samples in a way that training does not know, or was changed by
    something without content.
    """
    family = family_of(parts.model.model.model_config)
    prediction = process_of(sampling_of(parts.model), family).prediction
    return BaseModelRef(family.name, parts, parts_key(parts), prediction)  # type: ignore[arg-type]


def base_from_loaded(loaded: Loaded, key: str, dtype: str = "auto", clip_skip: int = 0) -> BaseModelRef:
    """The base model whose weights the host holds; `key` is the content key of those weights."""
    if loaded.components is None:
        identity = identify_tensors(loaded.state_dict(), {}, loaded.label)
    else:
        identity = identify_folder(loaded.components)
    if loaded.prediction is not None:
        identity = replace(identity, prediction=loaded.prediction)
    if loaded.zero_snr is not None:
        identity = replace(identity, zero_snr=loaded.zero_snr)
    return _reference(identity, loaded, key, dtype, clip_skip)


def _reference(identity: Identity, location: Path | Loaded, weights: str, dtype: str, clip_skip: int) -> BaseModelRef:
    if dtype != "auto" and dtype not in DTYPES:
        raise FewShotError(f"'{dtype}' is no compute type: choose auto, {', '.join(DTYPES)}")
    if clip_skip < 0:
        raise FewShotError(f"clip skip is {clip_skip}: 0 is the model's own, 1 the last layer, 2 the last but one")
    key = content_key("base", REVISION, weights, vars(identity), dtype, clip_skip)
    return BaseModelRef(
        family=identity.family,
        location=location,
        key=key,
        prediction=identity.prediction,  # type: ignore[arg-type]
        zero_snr=identity.zero_snr,
        clip_skip=clip_skip,
        dtype=dtype,
    )


# --------------------------------------------------------------------------------------------------------- opening


@contextmanager
def open_base(
    ref: BaseModelRef,
    device: torch.device | str,
    progress: Progress | None = None,
    tokenizer_folder: Path | None = None,
    host: bool = False,
    embedding_folders: Sequence[Path] = (),
) -> Iterator[DiffusionModel]:
    """The networks of `ref` on `device`, frozen and in evaluation mode; let go when the context ends.

    What ComfyUI has loaded stays its own, and is left as it was; all that follows is of weights that are read here.
    With `host` only the denoiser is there yet: text encoders and autoencoder are in the host's memory.

    `tokenizer_folder` holds CLIP's vocab.json and merges.txt (ComfyUI ships them in comfy/sd1_tokenizer); it is needed
    where the model brings no tokenizer of its own. In `embedding_folders` lie the embeddings that prompts name.

    Raises FewShotError when the weights do not fit together.
    """
    if isinstance(ref.location, HostedParts):
        with opened_in_place(ref, torch.device(device)) as hosted:
            yield hosted
        return
    model = _load(ref, torch.device(device), progress or NullProgress(), tokenizer_folder, host)
    model.embedding_folders = tuple(embedding_folders)
    try:
        yield model
    finally:
        model.close()
        gc.collect()
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def _load(
    ref: BaseModelRef, device: torch.device, progress: Progress, tokenizer_folder: Path | None, host: bool
) -> StableDiffusion:
    dtype = compute_dtype(ref.dtype, device)
    waiting = torch.device("cpu") if host and device.type != "meta" else device
    with torch.inference_mode(False), torch.no_grad():
        model = open_networks(ref, Placement(device, waiting, dtype), progress, tokenizer_folder)
    log.info("opened %s (%s, %s) on %s in %s", ref.name, model.family.title, ref.prediction, device, dtype)
    return model


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute type for `name`; "auto" is float32 on CPU and MPS, bfloat16 where the GPU has it, else float16."""
    if name != "auto":
        return DTYPES[name]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
