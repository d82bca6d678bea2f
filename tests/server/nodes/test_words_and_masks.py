"""Segment by Prompt, Expand Captions and Prompt Inspiration in a running ComfyUI."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.vision import tiny

pytestmark = pytest.mark.server
SEGMENT = {
    "model": "auto", "outline": "auto", "phrases": "", "threshold": 0.0, "instances": "best", "missing": "stop",
    "role": "all", "keep": True,
}  # fmt: skip
EXPAND = {"count": 6, "relation": "", "bind": "", "seed": 0}


def segment(source="set", **inputs):
    return {"segment": graphs.node("FewShotSegmentByPrompt", set=[source, 0], **(SEGMENT | inputs))}


def left_half():
    """A mask of 64 x 64, white on its left half, by ComfyUI's own nodes."""
    return {
        "white": graphs.node("SolidMask", value=1.0, width=32, height=64),
        "black": graphs.node("SolidMask", value=0.0, width=64, height=64),
        "mask": graphs.node(
            "MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=0, operation="add"
        ),
    }  # fmt: skip


def test_a_mask_from_the_graph_wins_and_is_shown(server):
    keep = {
        "keep": graphs.node("ProbeKeep", value=["segment", 2], name="mask"),
        "sheet": graphs.node("ProbeKeep", value=["segment", 1], name="sheet"),
    }
    outcome = server.succeed(graphs.pictures() | left_half() | segment(masks=["mask", 0]) | keep)
    mask = server.kept("mask")[0]
    assert mask.shape == (64, 64) and mask[:, :32].all() and not mask[:, 32:].any()
    shown = outcome.outputs("segment")
    assert "the given mask, 50%" in shown["text"][0]
    picture = np.asarray(server.picture(shown["images"][0]), np.float32) / 255
    assert picture.shape == server.kept("sheet")[0].shape


def test_without_any_model_the_error_says_what_goes_where(server):
    outcome = server.run(
        graphs.pictures() | segment(keep=False) | {"keep": graphs.node("ProbeKeep", value=["segment", 3], name="x")}
    )
    assert "models/grounding-dino" in outcome.error["exception_message"]


def test_a_model_on_disk_is_listed_and_its_miss_is_named(server):
    tiny.clipseg(server.base / "models" / "clipseg" / "tiny")
    schema = server.get("/object_info/FewShotSegmentByPrompt")["FewShotSegmentByPrompt"]
    assert "tiny" in schema["input"]["required"]["model"][1]["options"]
    keep = {"keep": graphs.node("ProbeKeep", value=["segment", 3], name="x")}
    outcome = server.run(graphs.pictures() | segment(model="tiny", threshold=1.0, keep=False, phrases="boat") | keep)
    assert 'no "boat" was found (best score' in outcome.error["exception_message"]
    assert "cat_patched_00.png" in outcome.error["exception_message"]


def test_captions_are_expanded_and_the_table_is_shown(server):
    expand = graphs.node("FewShotExpandCaptions", set=["set", 0], source="grammar", **EXPAND)
    keep = {"keep": graphs.node("ProbeKeep", value=["expand", 1], name="captions")}
    outcome = server.succeed(graphs.pictures() | {"expand": expand} | keep)
    captions = str(server.kept("captions")).splitlines()
    assert len(captions) == 12 and all("sks cat" in caption for caption in captions)
    assert outcome.outputs("expand")["text"][0].startswith("12 captions kept")


def test_captions_of_other_nodes_are_taken_or_refused(server):
    text = json.dumps(
        {"captions": ["a sks cat, in the evening", "a sks cat, at noon", "a dog", "one sks cat, outdoors"]}
    )
    expand = graphs.node(
        "FewShotExpandCaptions", set=["set", 0], source="text", **{"source.captions": text}, **(EXPAND | {"count": 4})
    )
    keep = {"keep": graphs.node("ProbeKeep", value=["expand", 2], name="table")}
    server.succeed(graphs.pictures() | {"expand": expand} | keep)
    table = str(server.kept("table"))
    assert "+ a sks cat, in the evening  [text]" in table and "- a dog  [text] placeholder: sks" in table
    expand["inputs"]["source.captions"] = "  "
    outcome = server.run(graphs.pictures() | {"expand": expand} | keep)
    assert "there are no captions" in outcome.error["exception_message"]


def test_without_a_language_model_the_grammar_writes_and_says_so(server):
    source = {"source": "language model", "source.model": "none"}
    expand = graphs.node("FewShotExpandCaptions", set=["set", 0], **source, **(EXPAND | {"count": 4}))
    keep = {"keep": graphs.node("ProbeKeep", value=["expand", 2], name="table")}
    server.succeed(graphs.pictures() | {"expand": expand} | keep)
    lines = str(server.kept("table")).splitlines()
    assert "no language model is on disk" in lines[0] and lines[1].startswith("8 captions kept")
    assert any("[grammar]" in line for line in lines)


def test_a_captioner_says_what_pictures_show_and_is_not_opened_again(server):
    tiny.qwen_vl(server.base / "models" / "captioners" / "tiny_vl")
    schema = server.get("/object_info/FewShotCaptionPictures")["FewShotCaptionPictures"]
    assert "tiny_vl" in schema["input"]["required"]["model"][1]["options"]
    inputs = {"model": "tiny_vl", "detail": "short", "bind": "", "overwrite": True}
    caption = {"caption": graphs.node("FewShotCaptionPictures", set=["set", 0], **inputs)}
    keep = {"keep": graphs.node("ProbeKeep", value=["caption", 1], name="captions")}
    outcome = server.succeed(graphs.pictures() | caption | keep)
    captions = str(server.kept("captions"))
    assert "sks" in captions
    said = outcome.outputs("caption")
    assert said["text"][0].startswith("2 captions") and "/77 tokens]" in said["text"][0]
    assert "cat_patched_00.png: " in said["text"][0] and server.picture(said["images"][0]).width >= 64
    answers = {file: file.stat().st_mtime_ns for file in (server.output / "fewshot" / "answers").iterdir()}
    assert len(answers) >= 2
    # Another word to leave out makes ComfyUI run the node again; what the model said is on disk.
    caption["caption"]["inputs"]["bind"] = "zebra"
    server.succeed(graphs.pictures() | caption | keep)
    assert str(server.kept("captions")) == captions
    there = {file: file.stat().st_mtime_ns for file in (server.output / "fewshot" / "answers").iterdir()}
    assert there == answers


def inspiration(**inputs):
    values = {"folder": "output/made", "keywords": "", "clip": "none", "like": "", "count": 8, "pick": 1}
    return {"found": graphs.node("FewShotPromptInspiration", set=["set", 0], **(values | inputs))}


@pytest.fixture
def made(server):
    """A gallery of two pictures, one of them by this server itself."""
    folder = server.output / "made"
    folder.mkdir(parents=True, exist_ok=True)
    about = PngImagePlugin.PngInfo()
    about.add_text("parameters", "a fox in the snow\nNegative prompt: blurry\nSteps: 9, Seed: 3, Size: 64x64")
    Image.new("RGB", (64, 64), "orange").save(folder / "fox.png", pnginfo=about)
    native = graphs.base() | graphs.drawing(["base", 1], ["base", 2], prompt="a red boat at night")
    native["save"] = graphs.node("SaveImage", images=["decoded", 0], filename_prefix="made/boat")
    server.succeed(native)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    for name in ("described", "cat_girl"):
        about = PngImagePlugin.PngInfo()
        if name == "described":
            llm = {"class_type": "LLMNode", "inputs": {"prompt": "Describe this image in detail"}}
            about.add_text("prompt", json.dumps({"1": llm, "3": graphs.node("KSampler", positive=["1", 0])}))
        else:
            about.add_text("parameters", "masterpiece, dog_girl\nSteps: 9, Seed: 3, Size: 64x64")
        Image.new("RGB", (64, 64), "orange").save(folder / f"{name}.png", pnginfo=about)


def test_prompts_of_the_gallery_become_the_subject_s(server, made):
    keep = {
        name: graphs.node("ProbeKeep", value=["found", slot], name=name)
        for slot, name in enumerate(("prompt", "negative", "prompts", "parameters", "thumbnails"))
    }
    outcome = server.succeed(graphs.pictures() | inspiration(keywords="fox") | keep)
    assert str(server.kept("prompt")) == "a sks cat in the snow" and str(server.kept("negative")) == "blurry"
    assert json.loads(str(server.kept("parameters")))["seed"] == 3
    said = outcome.outputs("found")["text"][0]
    assert "1. a sks cat in the snow" in said and "broken.png" in said
    assert "1: it goes through LLMNode, which is not known (described.png)" in said
    assert server.picture(outcome.outputs("found")["images"][0]).width >= 256
    server.succeed(graphs.pictures() | inspiration() | keep)
    assert "a photo of a sks cat, a red boat at night" in str(server.kept("prompts"))
    assert "a photo of a sks cat, masterpiece, dog_girl" in str(server.kept("prompts"))


def test_folders_outside_are_refused(server, made):
    answer = server.refused(
        graphs.pictures()
        | inspiration(folder="output/../../x")
        | {"k": graphs.node("ProbeKeep", value=["found", 0], name="x")}
    )
    assert answer["node_errors"]["found"]["errors"][0]["type"] == "value_not_in_list"
    keep = {"keep": graphs.node("ProbeKeep", value=["found", 0], name="x")}
    for wrong, said in (
        ({"like": "sea"}, "a CLIP is needed"),
        ({"pick": 50, "keywords": "fox"}, "choose 1 to 1"),
        ({"keywords": "zebra"}, "fewer or other words"),
    ):
        outcome = server.run(graphs.pictures() | inspiration(**wrong) | keep)
        assert said in outcome.error["exception_message"]
