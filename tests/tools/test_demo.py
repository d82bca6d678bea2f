"""What the demo asks of ComfyUI and what it makes of the answer: no server, no installs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from comfyui_fewshot import tools
from comfyui_fewshot.core.values import Adapter, LowRank
from comfyui_fewshot.models.adapters.formats import write_lora
from comfyui_fewshot.pocket.world.world import SUBJECTS
from comfyui_fewshot.tools import demo, in_env
from comfyui_fewshot.tools.console import Stop

ROOT = Path(tools.__file__).parent.parent


def workflow(name: str) -> dict:
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


def inputs_of(graph: dict, kind: str) -> dict:
    (name,) = demo.nodes_of(graph, kind)
    return graph[name]["inputs"]


@pytest.fixture
def user_job(tmp_path) -> demo.UserJob:
    base, pictures = tmp_path / "my model.safetensors", tmp_path / "photos"
    base.write_bytes(b"")
    pictures.mkdir()
    for name in ("a.JPG", "a_mask.png", "a.txt", "notes.pdf"):
        (pictures / name).write_bytes(b"")
    return demo.user_job_from(argparse.Namespace(base=base, pictures=pictures, identifier="zwx", noun="dog"))


def test_the_demos_subject_is_one_of_the_pockets():
    (subject,) = [subject for subject in SUBJECTS if subject.name == demo.SUBJECT]
    assert subject.thing.noun == demo.NOUN


def test_the_demo_asks_for_the_pocket_and_its_judge():
    graph = workflow(demo.WORKFLOW)
    demo.fill(graph, "demo_folder", None)
    demo.add_judged(graph, ["a {trigger} here", "a {trigger} there"])
    assert inputs_of(graph, "FewShotLoadBase")["source"] == "pocket"
    assert inputs_of(graph, "FewShotSubjectPictures")["source.folder"] == "demo_folder"
    assert graph["judged"]["inputs"]["prompts"].splitlines() == ["a {trigger} here", "a {trigger} there"]
    assert graph["before"]["inputs"]["images"] == ["judged", 1] and graph["after"]["inputs"]["images"] == ["judged", 2]


def test_a_persons_job_names_their_file_folder_and_words(user_job):
    graph = workflow(demo.USER_WORKFLOW)
    demo.fill(graph, "demo_photos", user_job)
    assert inputs_of(graph, "FewShotLoadBase")["source.name"] == "my model.safetensors"
    words = inputs_of(graph, "FewShotSubjectPictures")
    assert (words["identifier"], words["noun"], words["source.folder"]) == ("zwx", "dog", "demo_photos")


def test_a_persons_pictures_are_copied_with_captions_and_masks(user_job, tmp_path):
    name, facts = demo.place_pictures(Path("python"), tmp_path / "input", tmp_path, user_job)
    assert {file.name for file in (tmp_path / "input" / name).iterdir()} == {"a.JPG", "a_mask.png", "a.txt"}
    assert "prompts" not in facts


def test_results_are_where_the_nodes_say(tmp_path):
    graph = workflow(demo.WORKFLOW)
    demo.add_judged(graph, ["x"])
    (grid,) = [name for name in demo.nodes_of(graph, "FewShotSampleGrid") if name != "judged"]
    outputs = {}
    for name, node in graph.items():
        if node["class_type"] == "FewShotSaveAdapter":
            outputs[name] = {"text": ["/o/loras/a.safetensors\n/o/embeddings/a.safetensors"]}
        elif node["class_type"] == "FewShotTrainSubject":
            outputs[name] = {"text": ["400 steps, last loss 0.1\n/o/fewshot/run"]}
        elif node["class_type"] == "SaveImage":
            kind = "grid" if node["inputs"]["images"] == [grid, 0] else name
            outputs[name] = {"images": [{"subfolder": "", "filename": f"{kind}.png", "type": "output"}]}
    found = demo.results(graph, outputs, tmp_path)
    assert (found["lora"], found["run"]) == ("/o/loras/a.safetensors", "/o/fewshot/run")
    assert found["grid"] == str(tmp_path / "grid.png") and found["after"] == [str(tmp_path / "after.png")]


def test_a_workflow_that_lacks_a_part_is_named():
    with pytest.raises(Stop, match="FewShotLoadBase"):
        demo.fill({"1": {"class_type": "KSampler", "inputs": {}}}, "folder", None)


def test_the_report_shows_the_run(tmp_path):
    factor = LowRank(torch.ones(8, 2), torch.ones(2, 8), 2.0)
    path = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = write_lora(Adapter({path: factor}, "sd1", trigger="sks cat"), tmp_path / "a.safetensors")
    facts = in_env.subject({"folder": str(tmp_path / "in"), "subject": demo.SUBJECT, "identifier": "sks"})
    (tmp_path / "result.json").write_text(json.dumps({"losses": [1.0, 0.5, 0.25], "chosen": 2}))
    settings = {"inputs": {"chosen": {"steps": 3}}, "versions": {"torch": "2"}, "machine": {"threads": 1}}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    Image.new("RGB", (64, 64)).save(tmp_path / "grid.png")
    request = {**facts, "lora": str(lora), "run": str(tmp_path), "grid": str(tmp_path / "grid.png"), "before": []}
    answer = in_env.summary({**request, "after": [], "output": str(tmp_path / "out")})
    assert answer == {"trigger": "sks cat"}
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "sks cat" in html and html.count("<img") == 3
