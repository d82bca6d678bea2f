"""What prompts and captions hold that other programs read otherwise: named on the node, or refused in words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.nodes.test_evaluate import FAST

pytestmark = pytest.mark.server
LINES = "a photo of a (cat:1.3)\na cat BREAK night\na embedding:nothere cat\n<lora:foo:1> cat\na {cat|dog}"
NAMED = ("'BREAK': drawn as plain words", "embedding:nothere does not exist", "by Load Adapter", "'{cat|dog}'")


def prompts(lines: str) -> dict:
    own = {"source": "own lines", "source.lines": lines, "identifier": "", "noun": "cat", "description": "", "most": 50}
    return graphs.node("FewShotPromptSet", **own)


def test_it_is_named_wherever_prompts_are_drawn(server):
    graph = graphs.base() | graphs.grid(prompt=LINES) | {"set": prompts(LINES)}
    drawn = FAST | {"count": 1, "clip": "none", "dino": "none", "preferences": "off", "drift": 0, "pairs": 0}
    inputs = {"base": ["base", 0], "prompts": ["set", 0], "names": "", "strength": 1.0}
    graph["look"] = graphs.node("FewShotEvaluateLora", **inputs, **drawn)
    graph["listed"] = graphs.node("PreviewAny", source=["set", 1])
    graph["page"] = graphs.node("PreviewAny", source=["look", 3])
    outcome = server.succeed(graph)
    for node in ("grid", "look", "listed"):
        assert all(one in outcome.outputs(node)["text"][0] for one in NAMED), node
    found = json.loads(Path(outcome.outputs("page")["text"][0]).with_name("evaluation.json").read_text())
    assert all(one in found["prompts_note"] for one in NAMED)
    fine = server.succeed(graphs.base() | graphs.grid(prompt=r"a (cat:1.3) \(toy\)"))
    assert "text" not in fine.outputs("grid")


@pytest.mark.parametrize("kind", ["FewShotSampleGrid", "FewShotPromptSet"])
def test_an_unknown_placeholder_is_refused(server, kind):
    lines = "{triger} in snow"
    graph = graphs.base() | (graphs.grid(prompt=lines) if kind == "FewShotSampleGrid" else {"set": prompts(lines)})
    graph["see"] = graphs.node("PreviewAny", source=["set" if "set" in graph else "grid", 1])
    outcome = server.run(graph)
    assert outcome.error["node_type"] == kind
    assert "write {trigger}" in outcome.error["exception_message"]


def test_captions_with_weights_are_named_once(server):
    folder = Path(server.base) / "input" / "weighted"
    shutil.copytree(Path(server.base) / "input" / "subject", folder, dirs_exist_ok=True)
    try:
        for picture in folder.glob("*.png"):
            picture.with_suffix(".txt").write_text("a photo of a (SKS cat:1.3)")
        graph = graphs.pictures("weighted") | {"see": graphs.node("FewShotSetToImages", set=["set", 0], role="all")}
        graph["told"] = graphs.node("PreviewAny", source=["see", 2])
        outcome = server.succeed(graph)
        text = outcome.outputs("set")["text"][0]
        assert "captions hold weights" in text and text.count("(SKS cat:1.3)") == 1
        assert outcome.outputs("told")["text"][0] == "a photo of a (SKS cat:1.3)"
    finally:
        shutil.rmtree(folder)
