"""Every reader of a helper model's weights says what stands in their place, in words of its own."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision.embedders.clip import Clip
from comfyui_fewshot.vision.embedders.clip_vision import ClipVision
from comfyui_fewshot.vision.embedders.dino import Dino
from comfyui_fewshot.vision.memory import parameter_count
from comfyui_fewshot.vision.preference.hpsv2 import converted
from comfyui_fewshot.vision.preference.image_reward import ImageRewardModel
from comfyui_fewshot.vision.segmenters import open_finder, open_masker

CPU = torch.device("cpu")
PICTURES = [Image.new("RGB", (60, 60))]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1790000000\n"
STAND_INS = {
    "pointer": (POINTER, "is a Git LFS pointer"),
    "page": (b"<!DOCTYPE html><html></html>", "is a web page"),
    "nothing": (b"", "it is empty"),
    "code": (pickle.dumps(print, 2), "for safety|is a pickled PyTorch file"),
}
# By reader: the name of its file of weights, the config.json beside it, and how it is opened.
READERS = {
    "ImageReward": ("ImageReward.pt", None, lambda f: ImageRewardModel(f).rewards(PICTURES, ["a cat"])),
    "ImageReward, converted": (
        "ImageReward.safetensors",
        None,
        lambda f: ImageRewardModel(f).rewards(PICTURES, [""]),
    ),
    "HPSv2": ("HPS_v2.1_compressed.pt", None, converted),
    "SAM": ("sam_vit_b.pth", None, lambda f: open_masker(f / "sam_vit_b.pth", CPU)),
    "CLIP": ("model.safetensors", "clip", lambda f: Clip(f).images(PICTURES)),
    "CLIP, .bin": ("pytorch_model.bin", "clip", lambda f: Clip(f).images(PICTURES)),
    "CLIP, one file": ("tower.safetensors", None, lambda f: ClipVision(f / "tower.safetensors")),
    "DINO": ("model.safetensors", "dinov2", lambda f: Dino(f).images(PICTURES)),
    "memory": ("model.safetensors", "clip", parameter_count),
}


@pytest.mark.parametrize("what", STAND_INS)
@pytest.mark.parametrize("reader", READERS)
def test_what_stands_for_the_weights_is_said(tmp_path: Path, reader: str, what: str):
    name, kind, open_it = READERS[reader]
    data, words = STAND_INS[what]
    (tmp_path / name).write_bytes(data)
    if kind:
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(FewShotError, match=f"{name} .*({words})") as caught:
        open_it(tmp_path)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_files_of_a_segmenter(tmp_path: Path, name: str):
    folder = tiny.clipseg(tmp_path / "clipseg")
    (folder / name).write_bytes(POINTER)
    with pytest.raises(FewShotError, match=f"cannot be read .{name} is a Git LFS pointer"):
        open_finder(folder, CPU)
