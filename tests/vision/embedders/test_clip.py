"""CLIP metrics agree with the raw model, do not depend on the batch, and say what is missing."""

import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Prompt
from comfyui_fewshot.evaluation.metrics.clip import ClipImage, ClipText
from comfyui_fewshot.pocket.world.words import build
from comfyui_fewshot.vision.embedders import clip
from comfyui_fewshot.vision.embedders.clip import Clip

PROMPTS = [Prompt("a sks cat on the beach", "a cat on the beach"), Prompt("a car", "a car"), Prompt("boat", "boat")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    tokenizer = build(path)
    shared = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=shared
        | {
            "vocab_size": len(tokenizer), "max_position_embeddings": 32, "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config=shared | {"image_size": 48, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    CLIPImageProcessor(
        size={"shortest_edge": 48}, crop_size=48, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def images():
    return [Image.fromarray(a) for a in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())]


def test_equals_the_raw_model(folder, images):
    """An independent way to the same numbers: the model's own forward, pixels by numpy and torch."""
    opened = Clip(folder)
    model = CLIPModel.from_pretrained(folder).float().eval()
    tokens = opened.tokenizer([p.stripped for p in PROMPTS], padding=True, return_tensors="pt")
    pixels = []
    for image in images:
        scale = 48 / min(image.size)
        size = tuple(int(side * scale) for side in image.size)
        values = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float64) / 255
        top, left = (size[1] - 48) // 2, (size[0] - 48) // 2
        values = values[top : top + 48, left : left + 48]
        pixels.append(torch.tensor((values - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.25]).permute(2, 0, 1).float())
    with torch.no_grad():
        out = model(**tokens, pixel_values=torch.stack(pixels))
    text, image = out.text_embeds, out.image_embeds
    assert torch.allclose(ClipText(opened).scores(images, PROMPTS), (text * image).sum(-1), atol=1e-5)
    assert torch.allclose(
        ClipImage(opened).scores(images, PROMPTS, images[:2]), (image @ image[:2].T).mean(-1), atol=1e-5
    )


def test_pixels_are_those_of_the_processor(folder, images):
    """Within the rounding of the processor's 8-bit resize."""
    opened, processor = Clip(folder), CLIPImageProcessor.from_pretrained(folder)
    for image in images:
        wanted = processor(image, return_tensors="pt").pixel_values[0]
        difference = (opened.pixels(image) - wanted).abs()
        assert difference.mean() < 0.01 and opened.pixels(image).shape == (3, 48, 48)


def test_likeness_to_itself_is_one(folder, images):
    scores = ClipImage(folder).scores(images[:1], PROMPTS[:1], images[:1])
    assert scores.item() == pytest.approx(1, abs=1e-6)


def test_the_identifier_is_not_read(folder, images):
    named = [Prompt("a sks sks cat", "a cat")]
    plain = [Prompt("a cat", "a cat")]
    scorer = ClipText(folder)
    assert torch.equal(scorer.scores(images[:1], named, []), scorer.scores(images[:1], plain, []))


def test_any_size_and_batch(folder, images, monkeypatch):
    many = [
        i.resize(s)
        for i, s in zip(images * 2, [(7, 300), (48, 48), (1, 1), (64, 64), (200, 31), (50, 49)], strict=True)
    ]
    scorers = ClipText(folder), ClipImage(folder)
    whole = [s.scores(many, PROMPTS * 2, images) for s in scorers]
    monkeypatch.setattr(clip, "BATCH", 2)
    assert all(
        torch.allclose(s.scores(many, PROMPTS * 2, images), w, atol=1e-5) for s, w in zip(scorers, whole, strict=True)
    )
    assert all(w.shape == (6,) and w.dtype == torch.float32 and (w.abs() <= 1 + 1e-6).all() for w in whole)


def test_one_model_for_both(folder):
    opened = Clip(folder)
    assert ClipText(opened).model is ClipImage(opened).model and ClipText(opened).model_id == opened.model_id


def test_a_text_too_long_is_named(folder, caplog):
    assert Clip(folder).texts(["cat " * 100]).shape == (1, 16)
    assert "CLIP reads 32 tokens" in caplog.text


def test_errors(folder, images, tmp_path):
    with pytest.raises(FewShotError, match="config.json is missing"):
        ClipText(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(FewShotError, match="holds a bert, not a CLIP"):
        ClipText(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FewShotError, match="is damaged"):
        ClipText(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(FewShotError, match="cannot be read"):
        ClipImage(tmp_path).scores(images, PROMPTS, images)
    with pytest.raises(FewShotError, match="no tokenizer"):
        Clip(tmp_path).tokenizer  # noqa: B018
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FewShotError, match=r"lacks weights \(visual_projection.weight"):
        ClipImage(tmp_path).scores(images, PROMPTS, images)
    with pytest.raises(FewShotError, match="connect its pictures"):
        ClipImage(folder).scores(images, PROMPTS, [])
    with pytest.raises(FewShotError, match="no pictures to score"):
        ClipText(folder).scores([], [])
