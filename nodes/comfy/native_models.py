"""ComfyUI's MODEL, CLIP and VAE of a base: by ComfyUI's loader for a checkpoint, from its classes for a folder.

ComfyUI recognises models by the shapes of the stock ones. A diffusers folder of any size is therefore built here from
ComfyUI's own classes with the sizes that its config.json files state.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from ...core.errors import FewShotError
from ...models.stable_diffusion.files.configs import LATENT_SCALE
from . import diffusers_configs
from .folders import embedding_folders
from .host import comfy

# Attached to what was built from a folder, so that its configs can be found again
FOLDER_MARK = "fewshot_folder"

WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}


def family_of(model: Any) -> str | None:
    """The family of a MODEL; None for one that is not trained here."""
    known = comfy.supported_models
    kinds = {"sd1": known.SD15, "sd2": known.SD20, "sdxl": known.SDXL}
    return next((name for name, kind in kinds.items() if isinstance(model.model.model_config, kind)), None)


def from_checkpoint(path: Path) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) by ComfyUI's own loader."""
    loaded = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=embedding_folders()
    )
    return loaded[:3]


def from_folder(folder: Path, family: str) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of a diffusers folder of the family "sd1", "sd2" or "sdxl"."""
    vae_config = diffusers_configs.read_config(folder, "vae")
    model = build_model(folder, family, vae_config)
    clip = build_clip(folder, family)
    vae = build_vae(folder, vae_config)
    # By these ComfyUI makes copies that share no weights: for training, for hooks, for a second device
    model.cached_patcher_init = (build_model, (folder, family, vae_config))
    clip.patcher.cached_patcher_init = (_clip_patcher, (folder, family))
    vae.patcher.cached_patcher_init = (_vae_patcher, (folder, vae_config))
    for patcher in (model, clip.patcher, vae.patcher):
        patcher.set_attachments(FOLDER_MARK, str(folder))
    return model, clip, vae


def _clip_patcher(folder: Path, family: str, disable_dynamic: bool = False) -> Any:
    return build_clip(folder, family, disable_dynamic).patcher


def _vae_patcher(folder: Path, config: dict[str, Any]) -> Any:
    return build_vae(folder, config).patcher


def read_weights(folder: Path, component: str) -> dict[str, Any]:
    """The tensors of one component, from one file or from shards, by diffusers' names."""
    place = folder / component
    stem = WEIGHTS[component]
    for variant in ("", ".fp16"):
        single, index = place / f"{stem}{variant}.safetensors", place / f"{stem}.safetensors.index{variant}.json"
        if single.is_file():
            return comfy.utils.load_torch_file(str(single), safe_load=True)
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if any(Path(name).name != name for name in names):
                raise FewShotError(f"{index} names files outside its folder: {names}")
            tensors: dict[str, Any] = {}
            for name in names:
                tensors.update(comfy.utils.load_torch_file(str(place / name), safe_load=True))
            return tensors
    raise FewShotError(f"{place} holds neither {stem}.safetensors nor its index: put the model's weights there")


# ------------------------------------------------------------------------------------------------------------ MODEL


def build_model(folder: Path, family: str, vae_config: dict[str, Any], disable_dynamic: bool = False) -> Any:
    """A model patcher around ComfyUI's UNet with the folder's sizes, schedule and latent format.

    With `disable_dynamic` it is one that holds its weights in memory, as ComfyUI asks for where it trains or compiles.
    """
    unet = diffusers_configs.read_config(folder, "unet")
    scheduler = diffusers_configs.read_config(folder, "scheduler", "scheduler_config.json")
    tensors = read_weights(folder, "unet")
    management = comfy.model_management
    parameters = sum(tensor.numel() for tensor in tensors.values())
    config = _model_config(family, unet, scheduler, vae_config)
    device = management.get_torch_device()
    dtype = management.unet_dtype(
        model_params=parameters,
        supported_dtypes=config.supported_inference_dtypes,
        weight_dtype=comfy.utils.weight_dtype(tensors),
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, config.supported_inference_dtypes))
    renamed = _renamed(tensors, comfy.utils.unet_to_diffusers(config.unet_config), folder)
    model = config.get_model(renamed, "", device=management.unet_inital_load_device(parameters, dtype))
    _same_names(set(model.diffusion_model.state_dict()), set(renamed), folder / "unet")
    _set_groups(model.diffusion_model, unet.get("norm_num_groups", diffusers_configs.GROUPS))
    patchers = comfy.model_patcher
    kind = patchers.ModelPatcher if disable_dynamic else patchers.CoreModelPatcher
    patcher = kind(model, load_device=device, offload_device=management.unet_offload_device())
    model.load_model_weights(renamed, "", assign=patcher.is_dynamic())
    return patcher


def _model_config(family: str, unet: dict[str, Any], scheduler: dict[str, Any], vae: dict[str, Any]) -> Any:
    """A model config of ComfyUI with the folder's numbers in place of the stock ones."""
    stock = {
        "sd1": comfy.supported_models.SD15,
        "sd2": comfy.supported_models.SD20,
        "sdxl": comfy.supported_models.SDXL,
    }[family]
    types = comfy.model_base.ModelType
    prediction = types.V_PREDICTION if scheduler.get("prediction_type") == "v_prediction" else types.EPS
    arguments = diffusers_configs.unet_config(unet)
    heads = {name: arguments.pop(name) for name in ("num_heads", "num_head_channels")}

    class FolderModel(stock):
        unet_extra_config = {**stock.unet_extra_config, **heads}
        sampling_settings = diffusers_configs.sampling_settings(scheduler)
        latent_format = _latent_format(stock.latent_format, vae)

        def model_type(self, state_dict, prefix=""):
            return prediction

        def inpaint_model(self):
            return False

    return FolderModel(arguments)


def _latent_format(stock: Any, vae: dict[str, Any]) -> Any:
    """The latents' scale and channels. The stock format's preview colours serve where the channels are the same."""
    base = stock if vae["latent_channels"] == stock.latent_channels else comfy.latent_formats.LatentFormat

    class FolderLatents(base):
        latent_channels = vae["latent_channels"]
        spacial_downscale_ratio = 2 ** (len(vae["block_out_channels"]) - 1)

        def __init__(self):
            super().__init__()
            self.scale_factor = vae.get("scaling_factor", LATENT_SCALE)

    return FolderLatents


def _renamed(tensors: dict[str, Any], names: dict[str, str], folder: Path) -> dict[str, Any]:
    if unknown := sorted(set(tensors) - set(names)):
        raise FewShotError(f"{folder / 'unet'} holds {len(unknown)} weights that ComfyUI's UNet lacks, as {unknown[0]}")
    return {names[name]: tensor for name, tensor in tensors.items()}


def _same_names(needed: set[str], given: set[str], place: Path) -> None:
    if needed != given:
        missing, extra = sorted(needed - given), sorted(given - needed)
        raise FewShotError(f"{place} does not fit its config.json: missing {missing[:3]}, not expected {extra[:3]}")


def _set_groups(module: Any, groups: int) -> None:
    """ComfyUI builds every GroupNorm with 32 groups; the number does not show in the weights."""
    import torch

    if groups != diffusers_configs.GROUPS:
        for part in module.modules():
            if isinstance(part, torch.nn.GroupNorm):
                part.num_groups = groups


# ------------------------------------------------------------------------------------------------------------- CLIP


def build_clip(folder: Path, family: str, disable_dynamic: bool = False) -> Any:
    """ComfyUI's CLIP of a folder."""
    return (build_clip_l if family == "sd1" else build_stock_clip)(folder, disable_dynamic)


def build_clip_l(folder: Path, disable_dynamic: bool) -> Any:
    """ComfyUI's CLIP around a CLIPTextModel of any size, with the folder's own tokenizer."""
    from transformers import CLIPTokenizer

    config = diffusers_configs.read_config(folder, "text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"), local_files_only=True)
    tensors = _clip_weights(folder, "text_encoder")
    length = min(tokenizer.model_max_length, config["max_position_embeddings"])
    tokens = {"start": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    parts = comfy.sd1_clip

    class FolderTokenizer(parts.SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                tokenizer_path=str(folder / "tokenizer"),
                max_length=length,
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
                pad_token=tokens["pad"],
                tokenizer_data=tokenizer_data or {},
            )

    class FolderTextModel(parts.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                max_length=length,
                textmodel_json_config={**config, "eos_token_id": tokens["end"]},
                special_tokens=tokens,
                return_projected_pooled=False,
                model_options=model_options or {},
            )
            words = self.operations.Embedding(config["vocab_size"], config["hidden_size"], dtype=dtype, device=device)
            self.transformer.set_input_embeddings(words.requires_grad_(False))

    class Target:
        params: dict[str, Any] = {}
        clip = partial(parts.SD1ClipModel, clip_model=FolderTextModel)
        tokenizer = partial(parts.SD1Tokenizer, tokenizer=FolderTokenizer)

    return comfy.sd.CLIP(
        Target,
        embedding_directory=embedding_folders(),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        state_dict={f"clip_l.transformer.{name}": tensor for name, tensor in tensors.items()},
        disable_dynamic=disable_dynamic,
    )


def build_stock_clip(folder: Path, disable_dynamic: bool) -> Any:
    """ComfyUI's CLIP for the stock text encoders of SD 2.x and SDXL, by its own loader."""
    encoders = [part for part in ("text_encoder", "text_encoder_2") if (folder / part).is_dir()]
    return comfy.sd.load_text_encoder_state_dicts(
        [_clip_weights(folder, part) for part in encoders],
        embedding_directory=embedding_folders(),
        disable_dynamic=disable_dynamic,
    )


def _clip_weights(folder: Path, component: str) -> dict[str, Any]:
    """With `text_model.` in front, as files of every version of transformers but the newest have it."""
    tensors = read_weights(folder, component)
    top = ("text_model.", "text_projection.")
    return {name if name.startswith(top) else f"text_model.{name}": tensor for name, tensor in tensors.items()}


# -------------------------------------------------------------------------------------------------------------- VAE


def build_vae(folder: Path, config: dict[str, Any]) -> Any:
    """ComfyUI's VAE around an AutoencoderKL with the folder's widths, latent channels and norm groups."""
    vae = comfy.sd.VAE(sd=read_weights(folder, "vae"), config=diffusers_configs.vae_config(config))
    vae.latent_channels = config["latent_channels"]
    vae.downscale_ratio = vae.upscale_ratio = 2 ** (len(config["block_out_channels"]) - 1)
    _set_groups(vae.first_stage_model, config.get("norm_num_groups", diffusers_configs.GROUPS))
    return vae
