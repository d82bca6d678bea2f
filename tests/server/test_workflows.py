"""The workflows that a person opens: both forms agree with the schemas and each other, and each runs."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import comfyui_workflow_templates_json
import pytest
import skimage.data
from PIL import Image

from comfyui_fewshot.tests.evaluation.report.browser import voted
from comfyui_fewshot.tests.server import forms, graphs
from comfyui_fewshot.tests.server.described import WORKFLOWS
from comfyui_fewshot.tests.server.harness import random_clip

pytestmark = pytest.mark.server
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_workflows_are_there():
    assert NAMES == [
        "augment", "evaluate", "fused_subjects", "prompt_inspiration", "refine", "regions_of_two_loras", "relation",
        "subject_lora", "subject_lora_from_photos", "subject_on_flux2_klein", "subject_on_z_image",
        "subject_with_native_nodes", "two_subjects",
    ]  # fmt: skip
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name, info):
    assert forms.to_api(read(WORKFLOWS / f"{name}.json"), info) == read(WORKFLOWS / "api" / f"{name}.json")


@pytest.mark.parametrize("name", NAMES)
def test_links_and_sockets_of_the_saved_form_agree(name, info):
    workflow = read(WORKFLOWS / f"{name}.json")
    nodes = {node["id"]: node for node in workflow["nodes"] if node["type"] not in forms.NOTES}
    for link, source, slot, target, place, kind in workflow["links"]:
        output, entry = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert link in output["links"] and entry["link"] == link
        assert info[nodes[source]["type"]]["output"][slot] == kind
        assert entry["type"] in (kind, "*")  # ComfyUI's Preview as Text takes anything
    for node in nodes.values():
        names = [
            name
            for name, _, _ in forms.inputs_of(
                info[node["type"]]["input"], forms.widget_values(node, info[node["type"]]["input"])
            )
        ]
        assert [entry["name"] for entry in node["inputs"]] == names
        if node["type"].startswith("FewShot"):  # ComfyUI's own may gain outputs from release to release
            assert [output["name"] for output in node["outputs"]] == info[node["type"]]["output_name"]


@pytest.mark.parametrize("name", ["subject_on_flux2_klein", "subject_on_z_image"])
def test_model_files_are_those_that_comfyui_offers_to_download(name):
    """Each loader names its file with the address that ComfyUI's own templates have for it."""
    templates = Path(comfyui_workflow_templates_json.__file__).parent / "templates"
    known = [model for path in templates.glob("image_*.json") for model in models_in(read(path))]
    files = models_in(read(WORKFLOWS / f"{name}.json"))
    assert len(files) == 3 and all(file in known for file in files)
    loaders = [node for node in read(WORKFLOWS / f"{name}.json")["nodes"] if "models" in node["properties"]]
    assert [node["widgets_values"][0] for node in loaders] == [file["name"] for file in files]


def models_in(value):
    """The files that nodes of a workflow name for a download, those of subgraphs too."""
    if isinstance(value, dict):
        own = value.get("properties", {}).get("models", []) if isinstance(value.get("properties"), dict) else []
        return own + [one for part in value.values() for one in models_in(part)]
    return [one for part in value for one in models_in(part)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", NAMES)
def test_each_has_a_picture_of_its_graph(name, server):
    picture = Image.open(WORKFLOWS / f"{name}.jpg")
    assert min(picture.size) >= 256
    server.fetch(f"/api/workflow_templates/comfyui-fewshot/{name}.jpg")


def test_the_server_lists_them_as_templates(server):
    assert sorted(server.get("/workflow_templates")["comfyui-fewshot"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_runs_to_its_end(name, server, info):
    graph = graphs.shortened(read(WORKFLOWS / "api" / f"{name}.json"), info)
    start = len(server.log)
    with random_clip(server.base, "judge") if name == "refine" else nullcontext():  # others do without
        outcome = server.succeed(graph)
    for key, entry in graph.items():
        if entry["class_type"] in ("SaveImage", "FewShotSampleGrid", "FewShotLossCurve"):
            for image in outcome.outputs(key)["images"]:
                assert min(server.picture(image).size) >= 64
        if entry["class_type"] == "FewShotSaveAdapter":
            written = outcome.outputs(key)["text"][0]
            kind = "embeddings" if name == "relation" else "loras"  # a relation is a word, and has no LoRA
            assert written.startswith(str(server.output / kind))
        if entry["class_type"] == "FewShotEvaluateLora":
            report = Path(outcome.outputs(key)["text"][0].splitlines()[-1])
            problems, exported = voted(report)
            pairs = entry["inputs"]["pairs"]
            assert problems == [] and 0 < len(exported["votes"]) <= 3 * pairs
    assert not graphs.not_loaded(server.log[start:])


def test_photographs_are_learned_from(server, info):
    """Real ones, of several sizes and forms, through the workflow for them."""
    folder = server.base / "input" / "photographs"
    folder.mkdir()
    for name in ("astronaut", "chelsea", "coffee"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.jpg", quality=90)
    graph = graphs.shortened(read(WORKFLOWS / "api" / "subject_lora_from_photos.json"), info)
    (pictures,) = (key for key, entry in graph.items() if entry["class_type"] == "FewShotSubjectPictures")
    graph[pictures]["inputs"]["source.folder"] = folder.name
    outcome = server.succeed(graph)
    (saved,) = (key for key, entry in graph.items() if entry["class_type"] == "FewShotSaveAdapter")
    assert Path(outcome.outputs(saved)["text"][0].splitlines()[0]).is_file()
    shutil.rmtree(folder)


def test_a_form_with_a_value_too_many_is_told(info):
    workflow = read(WORKFLOWS / "subject_lora.json")
    workflow["nodes"][3]["widgets_values"].append(1)
    with pytest.raises(forms.Unfit, match="FewShotTrainSubject has 1 widget values too many"):
        forms.to_api(workflow, info)


def test_to_ui_is_undone_by_to_api(info):
    graph = read(WORKFLOWS / "api" / "subject_lora.json")
    places = {key: (0, 0) for key in graph}
    assert forms.to_api(forms.to_ui(graph, info, places), info) == graph
