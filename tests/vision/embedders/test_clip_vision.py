"""A CLIP's vision tower alone, in a single file: the same as transformers gives, in both layouts that ComfyUI reads."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.metrics.clip import ClipImage
from comfyui_fewshot.vision.embedders.clip import MEAN, STD
from comfyui_fewshot.vision.embedders.clip_vision import ClipVision, open_image_embedder
from comfyui_fewshot.vision.embedders.embedder import pixels
from comfyui_fewshot.vision.memory import embedding_bytes, parameter_count, vision_tower_bytes
from comfyui_fewshot.vision.model_ids import model_id

KINDS = {24: "quick_gelu", 32: "gelu", 48: "gelu"}  # ViT-L, ViT-H, ViT-bigG


def tower(layers, act=None):
    """Small, but with the layers and heads of a real one."""
    torch.manual_seed(layers)
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64, intermediate_size=96, num_hidden_layers=layers, num_attention_heads=16, image_size=32,
            patch_size=8, projection_dim=24, hidden_act=act or KINDS[layers],
        )
    ).eval()  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def in_comfy_names(model):
    """As the files of models/clip_vision have them, whichever names the installed transformers gives."""
    given = model.state_dict()
    whole = {n if n.startswith("visual_projection") else f"vision_model.{n.removeprefix('vision_model.')}": t
             for n, t in given.items()}  # fmt: skip
    return {name: tensor.contiguous().clone() for name, tensor in whole.items() if "position_ids" not in name}


def in_open_clip_names(weights):
    """As open_clip's checkpoints have them."""
    names = {
        "embeddings.class_embedding": "class_embedding", "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight", "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias", "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
    }  # fmt: skip
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
             "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
    found = {"visual.proj": weights["visual_projection.weight"].T}
    for name, tensor in weights.items():
        short = name.removeprefix("vision_model.")
        if short in names:
            found[f"visual.{names[short]}"] = tensor
        elif short.startswith("encoder.layers.") and "q_proj" not in short:
            number, rest = short.removeprefix("encoder.layers.").split(".", 1)
            part, _, kind = rest.rpartition(".")
            if part in inner:
                found[f"visual.transformer.resblocks.{number}.{inner[part]}.{kind}"] = tensor
        elif "q_proj" in short:
            number, kind = short.split(".")[2], short.rpartition(".")[2]
            whole = [weights[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            found[f"visual.transformer.resblocks.{number}.attn.in_proj_{kind}"] = torch.cat(whole)
    return {name: tensor.contiguous() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def pictures():
    drawn = np.random.default_rng(0).integers(0, 255, (3, 40, 52, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in drawn]


def wanted(model, pictures):
    """What transformers gives for the same pictures."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        found = model(pixel_values=torch.stack([pixels(one, 32, 32, mean, std) for one in pictures])).image_embeds
    return torch.nn.functional.normalize(found, dim=-1)


@pytest.mark.parametrize("layers", KINDS)
@pytest.mark.parametrize("layout", ["transformers", "open_clip"])
def test_it_gives_what_transformers_gives(tmp_path, pictures, layers, layout):
    model = tower(layers)
    weights, file = in_comfy_names(model), tmp_path / "clip_vision_x.safetensors"
    save_file(weights if layout == "transformers" else in_open_clip_names(weights), file)
    eyes = open_image_embedder(file, "cpu")
    found = eyes.images(pictures)
    assert torch.allclose(found, wanted(model, pictures), atol=1e-5)
    assert not torch.allclose(found, wanted(tower(layers, "relu"), pictures), atol=1e-2)
    assert isinstance(eyes, ClipVision)
    assert eyes.model_id == f"clip_vision_x ViT-64x{layers}/8 {hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
    assert parameter_count(file) == sum(p.numel() for p in model.parameters())
    assert embedding_bytes(file) == vision_tower_bytes(64, 96, 32, 8)


def test_the_text_half_of_a_whole_clip_is_left_alone(tmp_path, pictures):
    """And numbers in half precision are computed with in fp32."""
    model, file = tower(24).half(), tmp_path / "whole.safetensors"
    extra = {"text_model.final_layer_norm.weight": torch.ones(5), "logit_scale": torch.tensor(2.0)}
    save_file(in_comfy_names(model) | extra, file)
    assert torch.allclose(ClipVision(file).images(pictures), wanted(model.float(), pictures), atol=1e-5)
    assert parameter_count(file) == sum(p.numel() for p in model.parameters())


def test_it_is_a_likeness(tmp_path, pictures):
    file = tmp_path / "clip_vision_x.safetensors"
    save_file(in_comfy_names(tower(24)), file)
    metric = ClipImage(ClipVision(file))
    seen = metric.model.images(pictures)
    scores = metric.scores(pictures, [Prompt("a cat", "a cat")] * 3, pictures[:2])
    assert torch.allclose(scores, (seen @ seen[:2].T).mean(-1), atol=1e-5) and metric.model_id == model_id(
        file, "ViT-64x24/8"
    )
    smooth = torch.stack([torch.tensor(np.array(one)).permute(2, 0, 1) / 255 for one in pictures])
    assert torch.allclose(metric.model.encode(smooth), seen, atol=0.05)


def test_other_files_are_refused(tmp_path):
    def refused(weights, match):
        file = tmp_path / "other.safetensors"
        save_file(weights, file)
        with pytest.raises(FewShotError, match=match):
            ClipVision(file)

    whole = in_comfy_names(tower(24))
    refused({"encoder.layer.39.layer_scale2.lambda1": torch.ones(3)}, "other.safetensors holds no vision tower")
    refused({n: t for n, t in whole.items() if "projection" not in n}, "holds no vision tower that is known here")
    refused({n: t for n, t in whole.items() if ".layers.2" not in n and ".layers.1" not in n}, "holds no vision tower")
    places = "vision_model.embeddings.position_embedding.weight"
    refused(whole | {places: torch.ones(16, 64)}, "of another model than a CLIP")  # SigLIP has no class token
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0")
    with pytest.raises(FewShotError, match=r"cut\.safetensors"):
        ClipVision(tmp_path / "cut.safetensors")
    lacking = {n: t for n, t in whole.items() if n != "vision_model.post_layernorm.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(FewShotError, match="lacks weights"):
        ClipVision(tmp_path / "lacking.safetensors").images([Image.new("RGB", (32, 32))])
