"""Which family a LoRA is for: by its shapes, its names, what its file says, or what was chosen."""

from __future__ import annotations

import pytest

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.models.adapters.formats import from_tensors

from .tensors import pair, sized


def test_families_are_recognised():
    key = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
    for width, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
        up, down = pair(0, width)
        assert from_tensors({f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}).family == family
    up, down = pair(0, 192)
    odd = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
    with pytest.raises(FewShotError, match="Choose the family in Load Adapter .sd1, sd2, sdxl"):
        from_tensors(odd)
    assert from_tensors(odd, family="sd2").family == "sd2"
    assert from_tensors(odd, {"ss_base_model_version": "sd_v1"}).family == "sd1"
    assert from_tensors(odd, {"ss_base_model_version": "sdxl_other"}).family == "sdxl"
    assert from_tensors(odd, {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}).family == "sdxl"
    second = {"lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_up.weight": up}
    second["lora_te2_text_model_encoder_layers_3_mlp_fc1.lora_down.weight"] = down
    assert from_tensors(second).family == "sdxl"
    with pytest.raises(FewShotError, match="'flux'"):
        from_tensors(odd, family="flux")


MIDDLE, TEXT_0 = "mid_block_attentions_0_transformer_blocks_", "text_model_encoder_layers_0_mlp_fc1"
SELF_0, SELF_4 = (f"lora_unet_{MIDDLE}{n}_attn1_to_q" for n in (0, 4))
FIRST, WIDE = (f"lora_unet_down_blocks_{n}_attentions_0_transformer_blocks_0_attn1_to_q" for n in (0, 1))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([(SELF_0, 1280, 1280)], ("sd1", "sd2", "sdxl")),
        ([(SELF_4, 1280, 1280)], ("sdxl",)),
        ([(FIRST, 320, 320)], ("sd1", "sd2")),
        ([(WIDE, 640, 640)], ("sd1", "sd2", "sdxl")),
        ([("lora_unet_mid_block_attentions_0_proj_in", 1280, 1280), (FIRST, 320, 320)], ("sd1", "sd2")),
        ([("lora_unet_add_embedding_linear_1", 1280, 2816)], ("sdxl",)),
        ([("lora_unet_down_blocks_3_resnets_0_time_emb_proj", 1280, 1280)], ("sd1", "sd2")),
        ([(f"lora_te_{TEXT_0}", 3072, 768)], ("sd1",)),
        ([(f"lora_te_{TEXT_0}", 4096, 1024)], ("sd2",)),
        ([(f"lora_te1_{TEXT_0}", 3072, 768)], ("sdxl",)),
        ([(f"lora_te_{TEXT_0}", 768, 192)], ("sd1", "sd2")),
        ([("text_encoder.text_model.encoder.layers.0.mlp.fc1", 3072, 768)], ("sd1", "sdxl")),
        ([("base_model.model.text_model.encoder.layers.0.mlp.fc1", 4096, 1024)], ("sd2",)),
        ([(f"lora_te_{TEXT_0}", 3072, 768), (SELF_0, 1280, 1280)], ("sd1",)),
    ],
)
def test_shapes_and_names_tell_the_family_or_leave_few(layers, found):
    tensors = sized(*layers)
    if len(found) == 1:
        assert from_tensors(tensors).family == found[0]
        return
    with pytest.raises(FewShotError, match=rf"Choose the family in Load Adapter \({', '.join(found)}\)"):
        from_tensors(tensors)
    for family in found:
        assert from_tensors(tensors, base_family=family).family == from_tensors(tensors, family=family).family == family


@pytest.mark.parametrize(
    ("stated", "family"),
    [
        ({"ss_base_model_version": "sd_1.5"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"ss_base_model_version": "SDXL_1.0"}, "sdxl"),
        ({"modelspec.architecture": "stable-diffusion-v2-512/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lokr"}, "sd1"),
    ],
)
def test_files_say_their_family_in_several_ways(stated: dict[str, str], family: str):
    assert from_tensors(sized((SELF_0, 1280, 1280)), stated).family == family


def test_what_is_chosen_counts_and_what_the_file_says_is_named():
    notes: list[str] = []
    made = from_tensors(sized((SELF_0, 1280, 1280)), {"ss_base_model_version": "sdxl_1.0"}, "sd1", notes=notes)
    assert made.family == "sd1" and "says that it is for Stable Diffusion XL, and sd1 is chosen" in notes[0]
