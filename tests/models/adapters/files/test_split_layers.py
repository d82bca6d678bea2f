"""LoRAs of Z-Image that have queries, keys and values apart, as trainers over diffusers write them."""

import pytest
import torch
from safetensors.torch import save_file

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.adapters.formats import from_tensors, read_lora

LAYER = "diffusion_model.layers.0.attention"


def pair(name, rank, alpha=None, width=6):
    made = {
        f"{LAYER}.{name}.lora_A.weight": torch.randn(rank, 8),
        f"{LAYER}.{name}.lora_B.weight": torch.randn(width, rank),
    }
    return made | ({} if alpha is None else {f"{LAYER}.{name}.alpha": torch.tensor(alpha)})


def delta(tensors, name):
    if f"{LAYER}.{name}.lora_A.weight" not in tensors:
        return torch.zeros(6, 8)
    down, up = tensors[f"{LAYER}.{name}.lora_A.weight"], tensors[f"{LAYER}.{name}.lora_B.weight"]
    return up @ down * (float(tensors.get(f"{LAYER}.{name}.alpha", len(down))) / len(down))


@pytest.mark.parametrize("names", [("to_q", "to_k", "to_v"), ("to_q", "to_v"), ("to_k",)])
def test_parts_are_one_layer_exactly(tmp_path, names):
    tensors = {}
    for number, name in enumerate(names):
        tensors |= pair(name, 2 + number, alpha=1.5)
    tensors |= pair("to_out.0", 3)
    save_file(tensors, tmp_path / "parts.safetensors")
    adapter = read_lora(tmp_path / "parts.safetensors", "z_image")
    assert set(adapter.factors) == {f"{LAYER}.qkv", f"{LAYER}.out"}
    whole = adapter.factors[f"{LAYER}.qkv"]
    made = whole.up @ whole.down * (whole.alpha / whole.rank)
    wanted = torch.cat([delta(tensors, name) for name in ("to_q", "to_k", "to_v")])
    torch.testing.assert_close(made, wanted)


def test_other_families_keep_their_names():
    tensors = pair("to_q", 2)
    assert set(from_tensors(tensors, {}, "comfy_qwenimage").factors) == {f"{LAYER}.to_q"}


def test_parts_that_do_not_fit_are_told():
    with pytest.raises(FewShotError, match="different sizes"):
        from_tensors(pair("to_q", 2) | pair("to_k", 2, width=4), {}, "z_image")
    diff = {f"{LAYER}.to_q.diff": torch.randn(6, 8)}
    with pytest.raises(FewShotError, match="cannot be put together"):
        from_tensors(diff, {}, "z_image")
