"""Did it learn? What the nodes say after a training, in a running ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comfyui_fewshot.tests.server import graphs
from comfyui_fewshot.tests.server.harness import random_clip
from comfyui_fewshot.tests.server.nodes import test_refine, test_relation

pytestmark = pytest.mark.server
TEXT = 3  # ComfyUI's binary event of text on a node
ASKS = "Did it learn?"


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def clip(server):
    with random_clip(server.base, "learned-clip") as name:
        yield name


def training(info, clip, **changes):
    graph = graphs.training(info, check="auto", **changes)
    graph["train"]["inputs"]["validation"] = clip
    return graph


def text_of(outcome, node="train"):
    return outcome.outputs(node)["text"][0].splitlines()


def texts(outcome):
    return [event["data"].decode(errors="replace") for event in outcome.events("binary") if event["event"] == TEXT]


def test_without_a_clip_it_says_which_file_goes_where(server, info):
    """The first test, before there is one."""
    outcome = server.succeed(graphs.training(info, check="auto", seed=25))
    first = text_of(outcome)[0]
    assert first.startswith(ASKS) and "models/clip_vision" in first and "run Fetch Model" in first
    assert "images" not in outcome.outputs("train")


def test_the_node_says_it_shows_it_and_says_it_again(server, info, clip):
    graph = training(info, clip, seed=21)
    outcome = server.succeed(graph)
    lines = text_of(outcome)
    assert lines[0].startswith(ASKS) and any("checked on 4 prompts (base, 0.6, 1)" in line for line in lines)
    assert len(outcome.outputs("train")["images"]) == 1
    assert any("did it learn?" in text and "s left" in text for text in texts(outcome))
    folder = Path(lines[-1])
    assert json.loads((folder / "learned.json").read_text())["lines"][0] == lines[0]
    server.post("/free", {"free_memory": True, "unload_models": True})
    again = server.succeed(graph)
    assert text_of(again) == lines and not any("samples" in text for text in texts(again))


def test_it_is_turned_off(server, info, clip):
    graph = training(info, clip, seed=22)
    graph["train"]["inputs"]["check"] = "off"
    outcome = server.succeed(graph)
    assert not any(ASKS in line for line in text_of(outcome)) and "images" not in outcome.outputs("train")


def test_cancel_during_the_check_keeps_the_training(server, info, clip):
    graph = training(info, clip, seed=23) | graphs.saved("kept_from_cancel")

    def checks(kind, data):
        return kind == "binary" and data["event"] == TEXT and b"did it learn?" in data["data"]

    outcome = server.cancelled(graph, checks)
    assert outcome.status == "success", outcome.messages[-1]
    assert "cancelled" in text_of(outcome)[0] and not (Path(text_of(outcome)[-1]) / "learned.json").exists()
    assert list((server.output / "loras").glob("kept_from_cancel*.safetensors"))


def test_a_check_that_fails_keeps_the_training(server, info, clip):
    """The folder's tokenizer is gone: prompts cannot be read."""
    graph = training(info, clip, seed=24, validate_every=0)
    folder = server.base / "models" / "clip_vision" / clip
    hidden = {path: path.read_bytes() for path in folder.glob("*") if path.suffix in (".json", ".txt", ".safetensors")}
    (folder / "model.safetensors").write_bytes(b"torn")
    try:
        outcome = server.succeed(graph)
    finally:
        for path, content in hidden.items():
            path.write_bytes(content)
    assert text_of(outcome)[0].startswith("Did it learn? It could not be checked")


MANY = "\n".join(
    f"{place} {time}" for place in ("on the beach", "in the snow", "in a room") for time in ("", "at night")
)


def test_a_relation_and_a_refinement_say_it_too(server, info, clip):
    outcome = server.succeed(test_relation.relation(info, check="auto", seed=21))
    assert text_of(outcome)[0].startswith(ASKS) and outcome.outputs("train")["images"]
    outcome = server.succeed(test_refine.refinement(info, clip, steps=2, check="auto", activities=MANY))
    lines = text_of(outcome, "refine")
    assert lines[0].startswith(ASKS) and any("(base, before, after)" in line for line in lines)
