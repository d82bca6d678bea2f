"""LoRA files that cannot be applied are refused, each with what it holds or is of."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.adapters.formats import read_lora

from .lora_files import (
    PEFT,
    boft,
    diffusers,
    file,
    kohya,
    loha,
    lokr,
    oft,
    pair,
    pairs,
    r,
)

REFUSED = {
    "IA3": (file(kohya, K={"weight": r(320), "on_input": torch.tensor(False)}), "holds IA3 tensors"),
    "IA3 of PEFT": (file(diffusers, K={"ia3_l": r(320, 1)}), "holds IA3 tensors"),
    "BOFT without alpha": (file(kohya, Q=boft("Q", None)), "holds BOFT tensors without their alpha"),
    "BOFT of PEFT": (file(diffusers, Q={"boft_R": r(1, 8, 8, 8), "boft_s": r(320, 1)}), "holds PEFT's BOFT tensors"),
    "OFT with rescale": (file(kohya, K=oft("K", 0.1, rescale=r(320, 1))), "holds OFT tensors with a scale of each row"),
    "OFT of PEFT": (file(diffusers, K={"oft_R.weight": r(8, 28)}), "holds PEFT's OFT tensors"),
    "OFT of kohya": ({"oft_unet_mid_block_attentions_0_proj_in.oft_blocks": r(8, 8, 8)}, "holds kohya's OFT tensors"),
    "DoRA of PEFT": (file(diffusers, K=pair("K", **PEFT) | {"lora_magnitude_vector": r(320)}), "holds PEFT's DoRA"),
    "DoRA of OFT": (file(kohya, K=oft("K", 0.1) | {"dora_scale": r(320, 1)}), "is a DoRA of OFT"),
    "VeRA": (file(diffusers, K={"vera_lambda_b": r(320), "vera_lambda_d": r(4)}), "holds VeRA tensors"),
    "scalar": (file(kohya, K=pair("K") | {"scalar": torch.tensor(0.5)}), "holds LyCORIS scalar tensors"),
    "bias of a pair": (file(diffusers, OUT=pair("OUT", **PEFT) | {"lora_B.bias": r(320)}), "holds LoRA bias tensors"),
    "unknown ending": (file(kohya, K=pair("K") | {"spectrum": r(4)}), r"form that is not known \(.spectrum"),
    "two forms": (file(kohya, K=pair("K") | loha("K")), "changed in 2 ways at once .LoRA and LoHa"),
    "two names": (pairs(kohya, "K") | pairs(diffusers, "K"), "is there twice, by two names"),
    "half a LoHa": (file(kohya, K={n: t for n, t in loha("K").items() if "w2" not in n}), "only part of its LoHa"),
    "half a LoKr": (file(kohya, K={"lokr_w1": r(8, 8)}), "only part of its LoKr"),
    "half a pair": (file(kohya, K={"lora_up.weight": r(320, 4)}), "only part of its LoRA"),
    "half a GLoRA": (file(kohya, K={"a1.weight": r(320, 4)}), "only part of its GLoRA"),
    "lengths alone": (file(kohya, K={"dora_scale": r(320, 1)}), "no form that is known"),
    "larger layer": (file(kohya, K=pair("K") | {"reshape_weight": torch.tensor([320, 900])}), "layers of another size"),
    "NaN": (file(kohya, K=lokr("K") | {"lokr_w1": r(8, 8) * torch.nan}), "not finite"),
    "alphas": (file(kohya, K=lokr("K") | {"alpha": r(3)}), "not one number"),
    "no such layer": (pairs(kohya, "K") | {"lora_unet_mid_block_attentions_0_x.diff": r(2)}, "1 of 4 tensors have no"),
    "motion": ({"unet.down_blocks.0.motion_modules.0.proj_in.lora_A.weight": r(2, 2)}, "LoRA of AnimateDiff"),
    "IP-Adapter": ({"unet.mid_block.attentions.0.attn2.processor.to_k_ip.lora_A.weight": r(2, 2)}, "of IP-Adapter"),
    "Flux": ({"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": r(2, 2)}, "LoRA of Flux"),
    "Flux, diffusers": ({"transformer.single_transformer_blocks.0.norm.linear.lora_A.weight": r(2, 2)}, "of Flux"),
    "Flux, OFT": ({"transformer.single_transformer_blocks.0.proj_out.oft_R.weight": r(2, 2)}, "LoRA of Flux"),
    "SD 3": ({"diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight": r(2, 2)}, "of Stable Diffusion 3"),
    "SD 3, diffusers": ({"transformer.transformer_blocks.0.attn.add_k_proj.lora_A.weight": r(2, 2)}, "Diffusion 3, F"),
    "Qwen-Image": ({"transformer_blocks.0.img_mlp.net.2.lora_A.weight": r(2, 2)}, "LoRA of Qwen-Image"),
    "Z-Image": ({"diffusion_model.layers.0.attention.to_q.lora_A.weight": r(2, 2)}, "LoRA of Lumina or Z-Image"),
    "Wan": ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": r(2, 2)}, "LoRA of Wan"),
    "LTX": ({"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": r(2, 2)}, "of PixArt or LTX-Video"),
    "Cascade": ({"lora_prior_unet_blocks_0.lora_up.weight": r(2, 2)}, "LoRA of Stable Cascade"),
    "T5": ({"lora_te3_encoder_block_0_layer_0_SelfAttention_q.lora_up.weight": r(2, 2)}, "a T5 text encoder"),
    "another model": ({"model.layers.0.something.lora_A.weight": r(2, 2)}, "a model that is not known here"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_applied_is_called_by_its_name(tmp_path: Path, case: str):
    tensors, words = REFUSED[case]
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "sd_v1"})
    with pytest.raises(FewShotError, match=f"^a.safetensors: .*{words}"):
        read_lora(tmp_path / "a.safetensors")
