"""LoRA tensors that are of other models, damaged, or of several adapters."""

from __future__ import annotations

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.adapters.formats import from_tensors

from .tensors import PLACE, UNET


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": 0}, "a LoRA of Flux"),
        ({"transformer.single_blocks.0.lora_A.weight": 0}, "a LoRA of Flux"),
        ({"model.diffusion_model.joint_blocks.0.x.weight": 0}, "Stable Diffusion 3"),
        ({}, "no diffusion model"),
        ({"lora_unet_conv_in.lora_up.weight": 0}, "only part of its LoRA"),
        ({"lora_unet_conv_in.diff": 0, "lora_unet_conv_of_another.lora_up.weight": 0}, "1 of 2 tensors have no place"),
    ],
)
def test_what_is_no_lora_of_these_families(tensors: dict, words: str):
    with pytest.raises(FewShotError, match=words):
        from_tensors({key: torch.zeros(2, 2) for key in tensors}, family="sd1")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"alpha": torch.ones(2)}, "does not fit together"),
        ({"alpha": torch.ones(0)}, "does not fit together"),
        ({"alpha": torch.tensor(torch.nan)}, "not finite"),
        ({"lora_up.weight": torch.ones(320, 3)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(320, 0), "lora_down.weight": torch.ones(0, 768)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(4), "lora_down.weight": torch.ones(4)}, "does not fit together"),
        ({"lora_down.weight": torch.full((4, 768), torch.nan)}, "not finite"),
        ({"lora_up.weight": torch.full((320, 4), 1e30), "lora_down.weight": torch.full((4, 768), 1e30)}, "too large"),
        ({"lora_up.weight": torch.ones(320, 4, 3, 3)}, "does not fit together"),
        ({"lora_up.weight": torch.ones(320, 4, dtype=torch.int8)}, "stored as int8: .*float16"),
        ({"lora_down.weight": torch.ones(4, 768, dtype=torch.complex64)}, "stored as complex64"),
        ({"lora_mid.weight": torch.ones(7, 7, 1, 1)}, "does not fit together"),
        ({"lora_mid.weight": torch.ones(())}, "does not fit together"),
        ({"reshape_weight": torch.tensor([torch.nan])}, r"the shape \[nan\]"),
    ],
)
def test_a_damaged_pair_is_named(changed: dict, said: str):
    parts = {"lora_up.weight": torch.ones(320, 4), "lora_down.weight": torch.ones(4, 768), "alpha": torch.tensor(4.0)}
    assert from_tensors({f"{PLACE}.{name}": part for name, part in parts.items()}, {}).family == "sd1"
    with pytest.raises(FewShotError, match=said):
        from_tensors({f"{PLACE}.{name}": part for name, part in (parts | changed).items()}, {})


def test_alphas_alone_are_no_lora():
    with pytest.raises(FewShotError, match="holds no layer, only unet.mid_block.*alpha"):
        from_tensors({f"{PLACE}.alpha": torch.tensor(4.0)}, {}, "sd1")


@pytest.mark.parametrize(
    "parts",
    [
        {"lokr_w1": torch.ones(2), "lokr_w2": torch.ones(3)},
        {"lokr_w1": torch.ones(8, 8), "lokr_w2_a": torch.ones(40, 0), "lokr_w2_b": torch.ones(0, 96)},
        {f"hada_w{n}_{side}": torch.ones(s) for n in "12" for side, s in (("a", (320, 0)), ("b", (0, 768)))},
        {f"{name}.weight": torch.ones(3) for name in ("a1", "a2", "b1", "b2")},
    ],
)
def test_matrices_of_other_forms_have_rows_and_columns(parts: dict[str, torch.Tensor]):
    with pytest.raises(FewShotError, match=r"has the shape .*: the file is damaged"):
        from_tensors({f"{PLACE}.{name}": part for name, part in parts.items()} | {f"{PLACE}.alpha": torch.ones(())})


def test_a_file_of_two_adapters_is_refused():
    def layers(*names: str) -> dict[str, torch.Tensor]:
        return {f"{UNET}.{name}.weight": torch.ones((4, 768) if "_A" in name else (320, 4)) for name in names}

    assert list(from_tensors(layers("lora_A.default", "lora_B.default")).factors) == [UNET]
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(default and other"):
        from_tensors(layers("lora_A.default", "lora_B.other"))
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(default and one without a name"):
        from_tensors(layers("lora_A.default", "lora_B"))
    other = {key.replace("to_k", "to_v"): tensor for key, tensor in layers("lora_A.b", "lora_B.b").items()}
    with pytest.raises(FewShotError, match=r"several adapters of PEFT \(a and b\)"):
        from_tensors(layers("lora_A.a", "lora_B.a") | other)
