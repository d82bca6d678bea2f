"""The weights of ComfyUI's MODEL, CLIP and VAE, read through ComfyUI with every patch applied."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import FewShotError
from ...models.stable_diffusion.files.identify import folder_hash
from .host import comfy
from .native_models import FOLDER_MARK

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SAMPLES = 4096  # values of each tensor that go into the key
# Endings of names that ComfyUI keeps beside a quantized weight
QUANTIZED = (".scale_weight", ".weight_scale", ".comfy_quant", ".scaled_fp8", ".input_scale")


def is_patched(model: Any, clip: Any, vae: Any) -> bool:
    return any(patcher.patches for patcher in (model, clip.patcher, vae.patcher))


def source_folders(model: Any, clip: Any, vae: Any) -> tuple[Path | None, Path | None, Path | None]:
    """The diffusers folder that each part was built from by `native_models.from_folder`, or None."""
    marks = [patcher.get_attachment(FOLDER_MARK) for patcher in (model, clip.patcher, vae.patcher)]
    of_model, of_clip, of_vae = (None if mark is None else Path(mark) for mark in marks)
    return of_model, of_clip, of_vae


def check_readable(model: Any) -> None:
    """Raises FewShotError, naming the model, unless it is a Stable Diffusion UNet."""
    config = model.model.model_config
    known = (comfy.supported_models.SD15, comfy.supported_models.SD20, comfy.supported_models.SDXL)
    if not isinstance(config, known):
        raise FewShotError(f"this MODEL is a {type(config).__name__}; training knows SD 1.x, SD 2.x and SDXL")
    if getattr(config, "quant_config", None):
        raise FewShotError("this MODEL holds quantized weights, which cannot be trained on: load the full checkpoint")


def read(model: Any, clip: Any, vae: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(name in a checkpoint, weight on the CPU) one after another, with upstream LoRAs applied.

    ComfyUI brings weights back that are paged out or on another device.
    """
    import torch

    check_readable(model)
    comfy.model_management.load_models_gpu([model, clip.load_model()])
    weights = model.state_dict_for_saving(clip.state_dict_for_saving(), vae.patcher.model_state_dict_for_saving())
    if getattr(model.get_model_object("model_sampling"), "zsnr", False):
        weights["ztsnr"] = torch.tensor([])  # the marker that checkpoints carry and ComfyUI does not write
    for name in sorted(weights):
        if name.endswith(QUANTIZED):
            raise FewShotError(f"the weight {name!r} says that this model is quantized: load the full checkpoint")
        weight = weights[name].to("cpu").detach()
        number = weight.is_floating_point() or not name.endswith((".weight", ".bias"))
        if not number or (weight.is_floating_point() and weight.element_size() < 2):
            raise FewShotError(
                f"the weight {name!r} is {weight.dtype}, too coarse to train on: load the full checkpoint, with "
                "weight_dtype default"
            )
        yield name, weight


def state_dict(model: Any, clip: Any, vae: Any) -> Mapping[str, torch.Tensor]:
    """All weights under the names of a checkpoint file; ComfyUI's own copies are unloaded again.

    ComfyUI moves and patches weights under inference mode, as when it runs a node. What is given back has left it.
    """
    import torch

    weights = {}
    with torch.inference_mode():
        for name, weight in read(model, clip, vae):
            with torch.inference_mode(False):
                weights[name] = weight.clone()
    comfy.model_management.unload_all_models()
    return weights


def content_key(model: Any, clip: Any, vae: Any) -> str:
    """sha256 over the name, type, shape and `SAMPLES` evenly strided values of every weight.

    Where parts come from several places, what those hold beside weights (configs, tokenizers) is in it too.
    """
    import torch

    digest = hashlib.sha256()
    folders = source_folders(model, clip, vae)
    if len(set(folders)) > 1:
        digest.update("|".join("stock" if folder is None else folder_hash(folder) for folder in folders).encode())
    for name, weight in read(model, clip, vae):
        digest.update(f"{name}|{weight.dtype}|{tuple(weight.shape)}|".encode())
        flat = weight.reshape(-1)
        stride = max(1, -(-flat.numel() // SAMPLES))
        digest.update(flat[::stride].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_lora_weights(model: Any, clip: Any) -> int:
    """How many weights are changed by LoRAs; those that are merged with another model's do not count."""
    patches = [*model.patches.values(), *clip.patcher.patches.values()]
    return sum(any(map(_by_lora, on_weight)) for on_weight in patches)


def _by_lora(patch: tuple) -> bool:
    """Whether a patch (strength, value, ...) is a LoRA's. A merge's value is a list: a weight, then its own patches."""
    value = patch[1]
    if isinstance(value, list):
        return any(map(_by_lora, value[1:]))
    return not (isinstance(value, tuple) and len(value) == 1)


def log_patches(model: Any, clip: Any) -> None:
    """Log the patches that are baked into the weights."""
    for what, patcher in (("MODEL", model), ("CLIP", clip.patcher)):
        if patcher.patches:
            about = patcher.get_attachment("lora_metadata") or {}
            name = about.get("ss_output_name") or about.get("modelspec.title") or "without a name in its file"
            log.info("%s: %d weights are patched; baked in (last LoRA: %s)", what, len(patcher.patches), name)
