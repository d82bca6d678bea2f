"""Small MODEL, CLIP and VAE of ComfyUI's real classes with random weights, as a loader gives them."""

from __future__ import annotations

from typing import Any

import torch

from comfyui_fewshot.tests.models.hosted.networks import NETWORKS, model_of

WORDS = dict(intermediate_size=48, num_attention_heads=2, num_key_value_heads=1)


def parts_of(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of one of `LATENTS`, which can be loaded again."""
    model, clip, vae = model_of(name, dtype), clip_of(name), vae_of(name)
    model.cached_patcher_init = (_model_again, (name, dtype))
    return model, clip, vae


def _model_again(name: str, dtype: torch.dtype, disable_dynamic: bool = False) -> Any:
    return model_of(name, dtype)


def clip_of(name: str) -> Any:
    """A Qwen 3 of a few narrow layers, with ComfyUI's own tokenizer and template of the family."""
    import comfy.sd
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.z_image as z_image

    z = name != "flux2"  # other families get its states of the right width
    width = NETWORKS[name].width if z else NETWORKS[name].width // 3  # klein reads three layers

    class Target:
        params: dict[str, Any] = {}
        clip = z_image.te() if z else flux.klein_te()
        tokenizer = z_image.ZImageTokenizer if z else flux.KleinTokenizer

    layers = 3 if z else 28
    config = {**WORDS, "hidden_size": width, "num_hidden_layers": layers}
    with torch.inference_mode():
        clip = comfy.sd.CLIP(Target, model_options={"qwen3_4b_model_config": config, "dtype": torch.float32})
        _fill(clip.cond_stage_model, 0.1)
    return clip


# Channels of the latents, and levels of the autoencoder; None is the one that ComfyUI calls Wan's, which has frames.
LATENTS: dict[str, tuple[int, int] | None] = {
    "z_image": (16, 4), "comfy_lumina2": (16, 4), "flux2": (128, 5), "comfy_auraflow": (4, 4), "comfy_qwenimage": None,
}  # fmt: skip


def vae_of(name: str) -> Any:
    """An autoencoder with the latents of the family."""

    kind = LATENTS[name]
    with torch.inference_mode():
        made = _wan() if kind is None else _plain(*kind)
        _fill(made.first_stage_model, 0.1)
    if kind is not None:
        made.latent_channels = kind[0]
        made.downscale_ratio = made.upscale_ratio = 2 ** (kind[1] - 1)
    return made


def _plain(channels: int, levels: int) -> Any:
    import comfy.sd

    sizes = dict(
        double_z=True, z_channels=channels, resolution=64, in_channels=3, out_ch=3, ch=32, ch_mult=[1] * levels,
        num_res_blocks=1, attn_resolutions=[], dropout=0.0,
    )  # fmt: skip
    # a weight that it has not, since none at all would be looked for in a file
    return comfy.sd.VAE(sd={"none": torch.zeros(1)}, config={"params": {"ddconfig": sizes, "embed_dim": channels}})


def _wan() -> Any:
    import comfy.ldm.wan.vae
    import comfy.sd

    sizes = dict(dim=16, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, attn_scales=[], dropout=0.0)
    network = comfy.ldm.wan.vae.WanVAE(temperal_downsample=[False, True, True], **sizes)
    return comfy.sd.VAE(sd=network.state_dict())


def _fill(network: torch.nn.Module, spread: float) -> None:
    generator = torch.Generator().manual_seed(5)
    for parameter in network.parameters():
        parameter.copy_((torch.randn(parameter.shape, generator=generator) * spread).to(parameter.dtype))
