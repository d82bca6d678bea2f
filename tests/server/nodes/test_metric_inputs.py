"""Which models measure: what "auto" finds on the disk, what the widgets choose, and what an evaluation refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTForImageClassification, ViTModel

from comfyui_fewshot.pocket.models.likeness import build_clip, processor
from comfyui_fewshot.pocket.world.words import build
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.nodes.test_evaluate import FAST, prompts
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.tests.vision.preference import test_hpsv2 as test_open_clip
from comfyui_fewshot.tests.vision.preference import test_image_reward

pytestmark = pytest.mark.server
SMALL = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=224)
AUTO = {
    "DINO": "tiny-dino ViT-32x1/16 ", "DINOv2": "tiny-dinov2 ViT-32x1/14 ", "CLIP-I": "tiny-clip ViT-",
    "CLIP-T": "tiny-clip ViT-", "PickScore": "PickScore_v1 ViT-", "HPSv2": "HPSv2 (HPS_v2.1_compressed) ViT-160x2/8 ",
    "ImageReward": "ImageReward BLIP ",
}  # fmt: skip
"""what "auto" finds of what lies in the folders below: how each model's id begins"""
OWL = {"cut_out": "tiny-owl"}


def words_and(folder: Path, model: torch.nn.Module) -> None:
    model.save_pretrained(folder)  # type: ignore[operator]
    processor().save_pretrained(folder)


@pytest.fixture(scope="module")
def models(server):
    """Small random models where people have the large ones, and a folder of pictures of two sizes."""
    root = server.base / "models"
    (root / "clip_vision").mkdir(exist_ok=True)
    before = set(root.glob("*")) | set(root.glob("clip_vision/*"))
    seen, liked = root / "clip_vision", root / "rewards"
    for folder in (seen / "tiny-clip", seen / "PickScore_v1"):  # which sorts before it, and is no CLIP for "auto"
        folder.mkdir(parents=True)
        words_and(folder, build_clip(build(folder)))
    ViTModel(ViTConfig(**SMALL)).save_pretrained(seen / "tiny-dino")
    Dinov2Model(Dinov2Config(**SMALL)).save_pretrained(seen / "tiny-dinov2")
    ViTForImageClassification(ViTConfig(**SMALL)).save_pretrained(seen / "labels")
    for name in ("HPSv2", "ImageReward"):
        (liked / name).mkdir(parents=True)
    weights = test_open_clip.published(len(build(liked / "HPSv2")))
    torch.save({"state_dict": weights}, liked / "HPSv2" / "HPS_v2.1_compressed.pt")
    torch.save(test_image_reward.published(), liked / "ImageReward" / "ImageReward.pt")
    (liked / "ImageReward" / "vocab.txt").write_text("\n".join(test_image_reward.WORDS))
    tiny.owl(root / "owlv2" / "tiny-owl")
    mixed = server.base / "input" / "mixed"
    mixed.mkdir()
    for number, file in enumerate(sorted((server.base / "input" / "subject").glob("*.png"))):
        Image.open(file).convert("RGB").resize(((64, 64), (96, 72))[number % 2]).save(mixed / file.name)
    yield root
    shutil.rmtree(mixed)
    for path in (set(root.glob("*")) | set(root.glob("clip_vision/*"))) - before:
        shutil.rmtree(path)


def looked(**changes):
    """The base beside a LoRA of a file, on one prompt and pictures of two sizes; nothing is trained."""
    values = FAST | {"count": 1, "drift": 0, "pairs": 0} | changes
    inputs = {"base": ["base", 0], "prompts": ["prompts", 0], "set": ["set", 0], "adapter_1": ["load", 0]}
    source = {"source": "file", "source.name": "stand_in.safetensors"}
    graph = graphs.base() | graphs.pictures("mixed") | prompts(**{"source.lines": "a photo of a {trigger}"})
    graph["load"] = graphs.node("FewShotLoadAdapter", **source)
    graph["look"] = graphs.node("FewShotEvaluateLora", **inputs, names="", strength=1.0, **values)
    graph["told"] = graphs.node("PreviewAny", source=["look", 3])
    return graph


def measured(server, graph):
    page = Path(server.succeed(graph).outputs("told")["text"][0])
    return json.loads((page.parent / "evaluation.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("changes", "outlined", "wanted", "by"),
    [
        ({}, False, set(AUTO), None),
        (OWL, True, {*AUTO, "masked DINO", "masked CLIP-I"}, ("by tiny-owl ", " and tiny-sam ")),
        (OWL | {"preferences": "off"}, False, {"DINO", "DINOv2", "CLIP-I", "CLIP-T", "masked DINO", "masked CLIP-I"},
         ("by tiny-owl ", ", box crop")),
        ({"cut_out": "pocket", "dino": "tiny-dinov2", "preferences": "off"}, True,
         {"DINOv2", "CLIP-I", "CLIP-T", "masked DINOv2", "masked CLIP-I"}, ("by weights/clipseg ",)),
        ({"clip": "none", "dino": "tiny-dino", "preferences": "off"}, False, {"DINO"}, None),
        ({"clip": "none", "dino": "none"}, False, {"PickScore", "HPSv2", "ImageReward"}, None),
    ],
    ids=["all", "outlined boxes", "boxes", "own masks", "one", "preferences"],
)  # fmt: skip
def test_what_is_on_the_disk_measures(server, models, changes, outlined, wanted, by):
    if outlined:
        tiny.sam(models / "sams" / "tiny-sam")
    try:
        told = measured(server, looked(**changes))
    finally:
        if outlined:
            shutil.rmtree(models / "sams" / "tiny-sam")
    assert set(told["models"]) == wanted, "and no ViT that was taught labels"
    for name, model in told["models"].items():
        assert model.startswith(AUTO[name.removeprefix("masked ")]), name
        assert (" on cut-outs " in model) == name.startswith("masked ")
        if " on cut-outs " in model:
            assert by is not None and all(part in model for part in by), model
            assert ("box crop" in model) == ("box crop" in "".join(by)) and "nothing found in " in model
    for one in told["candidates"]:
        assert all(abs(score) < 100 for metric in one["metrics"].values() for score in metric["scores"])
    assert not any(line.startswith(tuple(wanted)) for line in told["left_out"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"load": {"source": "LORA_MODEL", "source.lora": ["file", 1], "source.family": "sd2"}},
         "is for sd2 and the base weights is sd1: choose an adapter that was trained on the base's family"),
        ({"look": {"cut_out": "tiny-owl", "set": None}}, "a cut-out is found by the subject's noun: connect its SET"),
    ],
    ids=["another family", "no noun"],
)  # fmt: skip
def test_what_cannot_be_measured_is_told(server, models, change, said):
    graph = looked()
    graph["file"] = graph["load"]
    for key, values in change.items():
        inputs = {} if key == "load" else graph[key]["inputs"]
        given = {name: value for name, value in (inputs | values).items() if value is not None}
        graph[key] = graphs.node(graph[key]["class_type"], **given)
    assert said in server.run(graph).error["exception_message"]


def test_a_model_of_preferences_does_not_validate(server, models):
    """Where no CLIP is chosen; it sees pictures, but was fitted to what people like."""
    there = [path.parent.name for path in (models / "clip_vision").glob("*/config.json")]
    assert min(there) == "PickScore_v1", "it is the first there"
    graph = graphs.training(server.get("/object_info"))
    del graph["train"]
    given = {"base": ["base", 0], "set": ["set", 0], "settings": ["settings", 0], "timed_steps": 0}
    graph["plan"] = graphs.node("FewShotTrainingPlan", **given)
    (text,) = server.succeed(graph).outputs("plan")["text"]
    assert text.endswith("validated by tiny-clip")
