"""LoRA tensors and adapters for the tests of their files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from comfyui_fewshot.core.values import Adapter, LowRank

UNET = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT = "text_encoder.text_model.encoder.layers.3.self_attn.q_proj"
PLACE = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"


def pair(seed: int = 0, width: int = 768) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 4, generator=generator), torch.randn(4, width, generator=generator)


def sized(*layers: tuple[str, int, int]) -> dict[str, torch.Tensor]:
    """Pairs for layers (name, out, in)."""
    made = {}
    for name, out, into in layers:
        made |= {f"{name}.lora_up.weight": torch.ones(out, 2), f"{name}.lora_down.weight": torch.ones(2, into)}
    return made


def adapter(**changes) -> Adapter:
    up, down = pair()
    fields = {"factors": {UNET: LowRank(up, down, 2.0)}, "family": "sd1", "trigger": "sks cat"}
    return Adapter(**(fields | changes))


def header(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return file.metadata()
