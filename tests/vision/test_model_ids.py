"""What models are called: by their size and weights, whatever their folders and configs say."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, Dinov2Config, ViTConfig, ViTModel

from comfyui_fewshot.vision.model_ids import MADE_FROM, made_from, model_id, vit_size, weights_hash


def digits(*files):
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return (hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest())[:8]


def test_a_fine_tune_is_not_its_parent(tmp_path):
    """Neither where config.json names the parent, nor where shapes and sizes are the same."""
    ids = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        folder = tmp_path / str(seed) / "clip-vit"
        ViTModel(ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(folder)
        about = json.loads((folder / "config.json").read_text()) | {"_name_or_path": "openai/clip-vit-base-patch32"}
        (folder / "config.json").write_text(json.dumps(about))
        ids.append(model_id(folder))
        assert ids[-1] == f"clip-vit ViT-32x1/16 {digits(folder / 'model.safetensors')}"
    assert ids[0] != ids[1]


def test_weights_that_are_replaced_make_another_id(tmp_path):
    file = save_one(tmp_path / "model.safetensors", 0)
    first = model_id(tmp_path, "")
    save_one(file, 1)
    assert model_id(tmp_path, "") != first


def save_one(file, seed):
    save_file({"x": torch.full((2,), float(seed))}, file)
    return file


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (CLIPConfig(), "ViT-B/32"),
        (ViTConfig(hidden_size=384), "ViT-S/16"),
        (Dinov2Config(hidden_size=1024, num_hidden_layers=24), "ViT-L/14"),
        (
            CLIPConfig(
                vision_config={
                    "hidden_size": 1280,
                    "num_hidden_layers": 32,
                    "num_attention_heads": 16,
                    "patch_size": 14,
                }
            ),
            "ViT-H/14",
        ),
    ],
)
def test_sizes_have_the_fields_names(tmp_path, config, size):
    config.save_pretrained(tmp_path / "some")
    assert model_id(tmp_path / "some") == f"some {size}", "there are no weights yet"
    assert vit_size(100, 3, 7) == "ViT-100x3/7"


def test_names_that_tell_nothing_have_the_folder_they_lie_in(tmp_path):
    (tmp_path / "pocket" / "clip").mkdir(parents=True)
    file = save_one(tmp_path / "pocket" / "clip" / "model.safetensors", 0)
    assert model_id(file.parent) == f"pocket/clip {digits(file)}"
    assert model_id(file, "ViT-H/14") == f"model ViT-H/14 {digits(file)}"


def test_what_speaks_and_what_is_kept_in_parts(tmp_path):
    folder = tmp_path / "tiny-vl"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2_vl"}')
    save_one(folder / "model.safetensors", 4)
    assert model_id(folder).startswith("tiny-vl qwen2_vl ") and model_id(folder).endswith(weights_hash(folder)[:8])
    parts = [save_one(tmp_path / f"model-0000{n}-of-00002.safetensors", n) for n in (1, 2)]
    assert weights_hash(tmp_path)[:8] == digits(*parts)
    save_one(tmp_path / "model.safetensors", 3)
    assert weights_hash(tmp_path)[:8] == digits(tmp_path / "model.safetensors"), "as transformers reads them"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"file": "HPS.pt", "sha256": 3, "stamp": ""}'])
def test_other_files_of_that_name_say_nothing(tmp_path, text):
    (tmp_path / MADE_FROM).write_text(text)
    assert made_from(tmp_path) == {}
