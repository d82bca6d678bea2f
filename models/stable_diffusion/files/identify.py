"""What a checkpoint or a model folder is: its family, what it predicts, and whether its last step is pure noise."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ....core.errors import FewShotError
from ....core.values import content_key
from ....core.weight_files import file_hash, other_kind
from ..variants import family_of_config
from .configs import read_config
from .names import UNET

SUPPORTED = "Stable Diffusion 1.x, 2.x and SDXL checkpoints are supported"
SD2_VELOCITY = 0.09
"""SD 2.x files carry no mark. In those that predict velocity the last transformer's first norm has a bias whose
standard deviation is above this; ComfyUI tells them apart in the same way."""

COMPONENTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
"""the parts of a folder in diffusers' layout that a result depends on"""


@dataclass(frozen=True)
class Identity:
    family: str
    prediction: str = "epsilon"
    zero_snr: bool = False


def identify_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], label: str) -> Identity:
    """The identity of an original checkpoint by its tensors' names and shapes and its metadata.

    Raises FewShotError that says what `label` is instead.
    """
    if f"{UNET}input_blocks.0.0.weight" not in tensors:
        raise FewShotError(f"{label} is {other_kind(tensors)}. {SUPPORTED}; choose one of those")
    family = _family(tensors, label)
    channels = tensors[f"{UNET}input_blocks.0.0.weight"].shape[1]
    out = tensors[f"{UNET}out.2.weight"].shape[0]
    if channels != out:
        kind = "an inpainting or editing model" if channels > out else "of an unknown kind"
        raise FewShotError(f"{label} is {kind} (its UNet takes {channels} channels, gives {out}). Choose a base model")
    if any(key.startswith("edm_") for key in tensors):
        raise FewShotError(f"{label} uses the EDM noise schedule (Playground, CosXL), which is not supported")
    prediction = _prediction(tensors, metadata, family)
    return Identity(family, prediction, prediction == "v_prediction" and "ztsnr" in tensors)


def _family(tensors: Mapping[str, Tensor], label: str) -> str:
    to_k = next((k for k in tensors if k.startswith(UNET) and k.endswith("attn2.to_k.weight")), None)
    if to_k is None:
        raise FewShotError(f"{label} has a UNet without cross-attention. {SUPPORTED}; choose one of those")
    proj_in = to_k.split("transformer_blocks.")[0] + "proj_in.weight"
    linear = tensors[proj_in].dim() == 2
    conditioned = f"{UNET}label_emb.0.0.weight" in tensors
    if conditioned and any(k.startswith("conditioner.embedders.1.model.") for k in tensors):
        return "sdxl"
    if conditioned:
        raise FewShotError(
            f"{label} is conditioned on more than text (an SDXL refiner or an unCLIP model) or lacks SDXL's second "
            f"text encoder. {SUPPORTED}; choose one of those"
        )
    return "sd2" if linear else "sd1"


def _prediction(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], family: str) -> str:
    stated = metadata.get("modelspec.prediction_type", "").lower()
    if stated in ("v", "v_prediction", "v-prediction", "epsilon"):
        return "epsilon" if stated == "epsilon" else "v_prediction"
    if "v_pred" in tensors:
        return "v_prediction"
    return "v_prediction" if family == "sd2" and looks_like_velocity(tensors) else "epsilon"


def looks_like_velocity(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the weights of an SD 2.x checkpoint are like those of a model that predicts velocity."""
    bias = tensors.get(f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias")
    return bias is not None and bool(bias.float().std(unbiased=False) > SD2_VELOCITY)


def identify_folder(folder: Path) -> Identity:
    """The identity of a folder in diffusers' layout by its configs. Raises FewShotError for another kind of folder."""
    if not (folder / "unet" / "config.json").is_file():
        raise FewShotError(f"{folder} is {_other_folder(folder)}. {SUPPORTED}; choose one of those")
    unet = read_config(folder, "unet")
    family = family_of_config(unet)
    missing = [e.component for e in family.text_encoders if not (folder / e.component / "config.json").is_file()]
    if missing:
        raise FewShotError(f"{folder} has no {' and no '.join(missing)}: it is incomplete, or not {family.title}")
    if unet.get("in_channels", 4) != unet.get("out_channels", 4):
        raise FewShotError(f"{folder} is an inpainting or editing model. Choose a base model")
    if unet.get("class_embed_type") or unet.get("time_cond_proj_dim"):
        raise FewShotError(f"{folder} is an unCLIP or a distilled (LCM) model. {SUPPORTED}; choose one of those")
    scheduler = read_config(folder, "scheduler")
    prediction = scheduler.get("prediction_type", "epsilon")
    return Identity(family.name, prediction, bool(scheduler.get("rescale_betas_zero_snr", False)))


def folder_hash(folder: Path) -> str:
    """The content key of a folder in diffusers' layout."""
    files = sorted(p for part in COMPONENTS for p in (folder / part).glob("*") if p.is_file())
    return content_key([[p.relative_to(folder).as_posix(), file_hash(p)] for p in files])


def _other_folder(folder: Path) -> str:
    index = folder / "model_index.json"
    if not index.is_file():
        return "no model folder in diffusers' layout (it has no model_index.json and no unet/)"
    kind = json.loads(index.read_text(encoding="utf-8")).get("_class_name", "unknown")
    return f"a folder of another family ({kind})"
