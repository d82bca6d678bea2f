"""Small networks of ComfyUI's real classes with random weights, and MODELs of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Network(NamedTuple):
    """`config` is a class of comfy.supported_models with its `settings`; `width` and `pooled` are of a prompt's states.

    `layers` is how many a training of attention_ff changes.
    """

    config: str
    settings: dict[str, Any]
    width: int
    layers: int
    pooled: int = 0


_NEXT = dict(
    patch_size=2, in_channels=16, dim=256, cap_feat_dim=40, n_layers=2, n_refiner_layers=1, qk_norm=True, n_heads=8,
    axes_dims=[8, 12, 12], axes_lens=[64, 32, 32], image_model="lumina2",
)  # fmt: skip
_FLUX = dict(context_in_dim=40, hidden_size=64, num_heads=2, depth=1, depth_single_blocks=2)
NETWORKS = {
    "z_image": Network(
        "ZImage",
        _NEXT
        | dict(
            n_kv_heads=8, rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0,
            pad_tokens_multiple=8,
        ),
        40,
        2 * (2 + 3),
    ),
    "flux2": Network(
        "Flux2",
        _FLUX
        | dict(
            image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, mlp_ratio=3.0,
            axes_dim=[32, 32, 32, 32], theta=2000, patch_size=1, qkv_bias=False, guidance_embed=False,
            global_modulation=True, mlp_silu_act=True, txt_ids_dims=[3], ops_bias=False, default_ref_method="index",
            ref_index_scale=10.0, yak_mlp=False, txt_norm=False,
        )
        | dict(context_in_dim=48, hidden_size=128, num_heads=1),  # such a one ComfyUI knows by its weights
        48,
        8 + 2 * 2,
    ),
    "comfy_lumina2": Network(
        "Lumina2", _NEXT | dict(n_kv_heads=4, rope_theta=10000.0, ffn_dim_multiplier=4.0), 40, 23
    ),
    "comfy_flux": Network(
        "Flux",
        _FLUX
        | dict(
            image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=24, mlp_ratio=4.0,
            axes_dim=[8, 12, 12], theta=10000, qkv_bias=True, guidance_embed=True, txt_ids_dims=[],
        ),
        40,
        16,
        24,
    ),
    "comfy_qwenimage": Network(
        "QwenImage",
        dict(
            image_model="qwen_image", in_channels=64, num_layers=2, attention_head_dim=32, num_attention_heads=3,
            joint_attention_dim=40, axes_dims_rope=(8, 12, 12),
        ),
        40,
        28,
    ),
    "comfy_auraflow": Network(
        "AuraFlow",
        dict(dim=64, n_layers=2, n_double_layers=1, n_heads=2, global_conddim=64, cond_seq_dim=40, max_seq=256),
        40,
        24,
    ),
}  # fmt: skip


def model_of(name: str, dtype: torch.dtype) -> Any:
    """A MODEL as ComfyUI's loaders give it, its weights made under inference mode as in a running graph."""
    import comfy.model_patcher
    import comfy.supported_models

    network = NETWORKS[name]
    config = getattr(comfy.supported_models, network.config)(dict(network.settings))
    config.set_inference_dtype(dtype, None)
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        model = config.get_model({}, "", device="cpu").to(dtype)
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
