"""Evaluation as a person meets it: numbers on the node, a report that opens in a browser, samples kept, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.tests.evaluation.report.browser import voted
from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import random_clip
from comfyui_fewshot.tests.vision.embedders.test_clip_vision import in_comfy_names, tower

pytestmark = pytest.mark.server
FAST = {
    "count": 2, "seed": 3, "steps": 2, "guidance": 1.0, "clip": "auto", "dino": "auto", "preferences": "auto",
    "cut_out": "none", "negative": "", "width": 0, "height": 0, "batch": 8, "drift": 2, "pairs": 4, "watermark": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture
def clip(server):
    with random_clip(server.base, "tiny-clip") as name:
        yield name


def prompts(**changes):
    lines = "a photo of a {trigger}\na house alone\na {trigger} at night"
    values = {"source": "own lines", "source.lines": lines, "identifier": "", "noun": "", "description": "", "most": 50}
    return {"prompts": graphs.node("FewShotPromptSet", set=["set", 0], **(values | changes))}


def evaluation(info, **changes):
    """A trained adapter beside the base."""
    graph = graphs.training(info, seed=31) | prompts()
    inputs = {"base": ["base", 0], "prompts": ["prompts", 0], "set": ["set", 0], "adapter_2": ["train", 0]}
    graph["train"]["inputs"]["validation"] = "off"
    graph["look"] = graphs.node("FewShotEvaluateLora", **inputs, names="", strength=1.0, **(FAST | changes))
    graph["told"] = graphs.node("PreviewAny", source=["look", 3])
    graph["listed"] = graphs.node("PreviewAny", source=["prompts", 1])
    return graph


def test_numbers_samples_and_the_report_in_a_browser(server, info, clip, tmp_path):
    samples = Path(server.output) / "fewshot" / "samples"
    shutil.rmtree(samples, ignore_errors=True)
    outcome = server.succeed(evaluation(info))
    page = Path(outcome.outputs("told")["text"][0])
    assert page.is_file() and page.is_relative_to(Path(server.output) / "fewshot" / "evaluations")
    told = json.loads((page.parent / "evaluation.json").read_text(encoding="utf-8"))
    assert [c["name"] for c in told["candidates"]] == ["base", "sks cat"]
    assert told["models"]["CLIP-T"].startswith(f"{clip} ViT-")
    assert set(told["candidates"][1]["metrics"]) == {
        "CLIP-I", "CLIP-T", "diversity", "language drift (PRES)", "language drift (DIV)",
    }  # fmt: skip
    assert [p["text"] for p in told["prompts"]] == ["a photo of a sks cat", "a sks cat at night"]
    apart = f"1 - cosine of {told['models']['CLIP-T']}"
    assert told["models"]["diversity"] == apart == told["models"]["language drift (DIV)"]
    for name in ("DINO", "DINOv2", "PickScore", "HPSv2", "ImageReward", "LPIPS"):
        assert any(line.startswith(f"{name}: ") and "into " in line for line in told["left_out"]), name
    assert 'does not name the cat: "a house alone"' in outcome.outputs("listed")["text"][0]
    shown = outcome.outputs("look")
    assert "CLIP-T" in shown["text"][0] and server.picture(shown["images"][0]).size == (840, 560)
    assert any(kind == "binary" and data["event"] == 1 for kind, data in outcome.messages), "previews of the samples"

    drawn = {path: path.stat().st_mtime_ns for path in samples.rglob("*.png")}
    assert len(drawn) == 2 * 2 * 2 + 2, "the base draws the class alone for both"
    graph = evaluation(info, pairs=2)
    graph["look"]["inputs"]["strength"] = 0.5
    server.succeed(graph)
    again = {path: path.stat().st_mtime_ns for path in samples.rglob("*.png")}
    assert len(again) == len(drawn) + 6 and all(again[path] == drawn[path] for path in drawn), "the base's are kept"

    problems, exported = voted(page)
    assert problems == [] and len(exported["votes"]) == 4 * 3


@pytest.mark.parametrize("node", ["FewShotEvaluateLora", "FewShotStrengthSweep"])
def test_what_was_put_there_since_counts(server, info, node):
    """The page says where a model goes; put there, the same graph measures with it. A deleted report is written anew,
    and where nothing has changed nothing is done again."""
    graph = evaluation(info, count=1, drift=0, pairs=0)
    if node == "FewShotStrengthSweep":
        sweep = {"adapter": ["train", 0], "strengths": "1"}
        taken = {name: value for name, value in graph["look"]["inputs"].items() if name in {*FAST, *sweep, "set"}}
        graph["look"] = graphs.node(node, base=["base", 0], prompts=["prompts", 0], **(taken | sweep))

    def page():
        path = Path(server.succeed(graph).outputs("told")["text"][0])
        return path, json.loads((path.parent / "evaluation.json").read_text(encoding="utf-8"))["models"]

    bare, models = page()
    assert not models and page()[0] == bare, "nothing has changed"
    folder = server.base / "models" / "clip_vision" / "pocket-clip"
    folder.parent.mkdir(exist_ok=True)
    shutil.copytree(WEIGHTS / "clip", folder)
    try:
        measured, models = page()
        assert measured != bare and set(models) == {"CLIP-I", "CLIP-T"} and models["CLIP-T"].startswith(folder.name)
        shutil.rmtree(measured.parent)
        again, _ = page()
        assert again.is_file() and page()[0] == again
        written = again.stat().st_mtime_ns
        assert page()[0] == again and again.stat().st_mtime_ns == written
        next(folder.glob("*.safetensors")).touch()
        assert page()[0] != again, "a model that was replaced"
    finally:
        shutil.rmtree(folder)


def test_the_sweep_gives_a_strength(server, info, clip):
    graph = evaluation(info)
    graph["look"] = graphs.node(
        "FewShotStrengthSweep", base=["base", 0], adapter=["train", 0], prompts=["prompts", 0], set=["set", 0],
        strengths="1, 0.5,1", **(FAST | {"count": 1, "drift": 0, "pairs": 0}),
    )  # fmt: skip
    graph["best"] = graphs.node("PreviewAny", source=["look", 4])
    outcome = server.succeed(graph)
    told = json.loads(Path(outcome.outputs("told")["text"][0]).with_name("evaluation.json").read_text("utf-8"))
    assert [c["name"] for c in told["candidates"]] == ["base", "0.5", "1"]
    best = float(outcome.outputs("best")["text"][0])
    assert best == (1.0 if told["best"] is None else float(told["best"]))


def test_prompts_that_were_reconstructed_say_so(server, info):
    graph = evaluation(info, count=1, drift=0, pairs=0)
    graph |= prompts(source="instructbooth animal", most=2, noun="cat")
    del graph["prompts"]["inputs"]["source.lines"]
    page = Path(server.succeed(graph).outputs("told")["text"][0])
    told = json.loads((page.parent / "evaluation.json").read_text(encoding="utf-8"))
    assert told["prompts_note"].startswith("instructbooth animal: reconstructed: the paper shows")
    assert f"<p>{told['prompts_note']}</p>" in page.read_text(encoding="utf-8")


def test_a_text_file_is_read_anew(server, info):
    file = server.base / "input" / "mine.txt"
    graph = graphs.pictures() | prompts(source="text file", **{"source.file": "mine.txt"})
    del graph["prompts"]["inputs"]["source.lines"]
    graph["listed"] = graphs.node("PreviewAny", source=["prompts", 1])
    for words in ("a cat in the snow", "a {trigger} by the sea\n# a comment"):
        file.write_text(words, encoding="utf-8")
        listed = server.succeed(graph).outputs("listed")["text"][0]
        assert listed == words.split("\n")[0].replace("{trigger}", "sks cat")
    file.unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompts": {"source.lines": "a house"}}, "there is no prompt to draw; left out"),
        ({"look": {"names": "a, b, c"}}, "3 names are given for 1 adapters"),
        ({"look": {"clip": "none"}}, None),
        (
            {"prompts": {"source": "reversion", "source.relation": "inside"}},
            "reversion asks for relations, but the set",
        ),
    ],
)
def test_bad_input_is_told(server, info, change, said):
    graph = evaluation(info, count=1, drift=0)
    for key, values in change.items():
        graph[key]["inputs"].update(values)
    outcome = server.run(graph)
    if said is None:
        assert "left out: all numbers" in outcome.outputs("look")["text"][0]
    else:
        assert said in outcome.error["exception_message"]


def test_strengths_that_are_none_are_refused(server, info):
    graph = evaluation(info)
    del graph["told"], graph["listed"]
    for words in ("strong", "9", ""):
        graph["look"] = graphs.node(
            "FewShotStrengthSweep", base=["base", 0], adapter=["train", 0], prompts=["prompts", 0], strengths=words,
            **FAST,
        )  # fmt: skip
        status, answer = server.post("/prompt", {"prompt": graph})  # the training is an output of its own
        (wrong,) = answer["node_errors"]["look"]["errors"]
        assert status == 200 and wrong["extra_info"]["input_name"] == "strengths"


def test_a_mark_in_samples_is_found(server):
    """By the node that looks for it, in Sample Grid's pictures; not in those without it."""
    for marked in (True, False):
        graph = graphs.base() | graphs.grid()
        graph["grid"]["inputs"]["watermark"] = marked
        graph["look"] = graphs.node("FewShotDetectWatermark", images=["grid", 1])
        graph["found"] = graphs.node("PreviewAny", source=["look", 0])
        outcome = server.succeed(graph)
        assert outcome.outputs("found")["text"][0] == str(marked)
        report = outcome.outputs("look")["text"][0]
        assert report.startswith("picture 1: marked" if marked else "picture 1: no mark")


def test_a_vision_tower_in_a_file_measures_likeness(server, info, clip):
    """Beside the CLIP, whose own likeness then bears its name."""
    file = server.base / "models" / "clip_vision" / "clip_vision_x.safetensors"
    save_file(in_comfy_names(tower(24)), file)
    try:
        outcome = server.succeed(evaluation(info, dino=file.name))
    finally:
        file.unlink()
    page = Path(outcome.outputs("told")["text"][0])
    models = json.loads((page.parent / "evaluation.json").read_text(encoding="utf-8"))["models"]
    assert models["CLIP-I"].startswith(f"{file.stem} ViT-64x24/8 ")
    assert models[f"CLIP-I {clip}"] == models["CLIP-T"] and models["CLIP-T"].startswith(f"{clip} ViT-")
