"""Graphs saved before a widget was taken away open with every value in its place: in a real browser."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from comfyui_fewshot.tests.evaluation.report.browser import browse
from comfyui_fewshot.tests.server import forms, graphs
from comfyui_fewshot.tests.server.described import ROOT

pytestmark = pytest.mark.server
OPENED = "window.app?.graph && window.LiteGraph && Object.keys(LiteGraph.registered_node_types).length > 50"


def saved_before(workflow, kind, names, name, next_one, value):
    """The workflow as the editor saved it when nodes of this kind had the widget `name` before `next_one`."""
    workflow = deepcopy(workflow)
    for node in workflow["nodes"]:
        if node["type"] == kind:
            node["widgets_values"].insert(names.index(next_one), value)
            node["inputs"].append({"name": name, "type": "COMBO", "link": None, "widget": {"name": name}})
    return workflow


def opened_in_the_editor(server, *workflows):
    """For each workflow what the editor would run, and the inputs and notes that it shows after opening it."""

    async def visit(page, _):
        await page.open(server.url)
        await page.until(OPENED, 90)
        found = []
        for workflow in workflows:
            await page.run(f"app.loadGraphData({json.dumps(workflow)})")
            graph = await page.run("app.graphToPrompt().then((all) => all.output)")
            inputs = await page.run("app.graph._nodes.flatMap((node) => (node.inputs ?? []).map((one) => one.name))")
            notes = await page.run("[...document.querySelectorAll('.p-toast-detail')].map((one) => one.textContent)")
            found.append((graph, inputs, notes))
        return found

    return browse(visit)


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def widget_names(info, kind):
    names = []
    for name, of_type, about in forms.inputs_of(info[kind]["input"], {}):
        if forms.is_widget(of_type, about):
            names += [name, *(["control_after_generate"] if forms.is_changed_after(name, about) else [])]
    return names


def values(graph):
    """The nodes' inputs without what the editor adds."""
    return {number: (node["class_type"], node["inputs"]) for number, node in graph.items()}


def test_values_are_brought_to_their_places(server, info):
    today = json.loads((ROOT / "workflows" / "two_subjects.json").read_text(encoding="utf-8"))
    kind = "FewShotTrainingSettings"
    place = kind, widget_names(info, kind), "local_attention", "objective"
    same, content, plain = opened_in_the_editor(
        server, today, saved_before(today, *place, "content"), saved_before(today, *place, "plain")
    )
    assert values(content[0]) == values(plain[0]) == values(same[0])
    assert content[1] == plain[1] == same[1] and "local_attention" not in same[1]
    assert same[2] == content[2] == []
    assert plain[2] == ["local_attention was plain: it is no setting any more, and content is used"]


@pytest.mark.parametrize(
    ("kind", "name", "former", "now", "said"),
    [
        (
            "FewShotRelationSettings", "adversarial", "literal", "sensible",
            "adversarial was literal: it is no choice any more, and sensible is used",
        ),
        (
            "FewShotRefinementSettings", "method", "dpok", "grpo_clamped",
            "method was dpok, which is called grpo_clamped now",
        ),
    ],
)  # fmt: skip
def test_a_choice_of_before_becomes_the_one_of_today(server, info, kind, name, former, now, said):
    usual = {name: about["default"] for name, _, about in forms.inputs_of(info[kind]["input"], {})}
    node = {"class_type": kind, "inputs": usual, "_meta": {"title": kind}}
    before = forms.to_ui({"1": node}, info, {"1": (0, 0)})
    before["nodes"][0]["widgets_values"][widget_names(info, kind).index(name)] = former
    ((graph, _, notes),) = opened_in_the_editor(server, before)
    (ran,) = [one["inputs"] for one in graph.values() if one["class_type"] == kind]
    assert ran[name] == now and notes == [said]


def test_graphs_of_the_api_take_a_method_by_its_former_name(server, info):
    kind = "FewShotRefinementSettings"
    usual = {name: about["default"] for name, _, about in forms.inputs_of(info[kind]["input"], {})}
    shown = graphs.node("PreviewAny", source=["settings", 0])
    graph = {"settings": graphs.node(kind, **usual | {"method": "dpok"}), "shown": shown}
    server.succeed(graph)
    graph["settings"]["inputs"]["method"] = "dpo"
    answer = server.refused(graph)
    assert "method is 'dpo'; it must be one of nft, grpo, ddpo, grpo_clamped" in str(answer["node_errors"])


def test_graphs_of_the_api_that_name_a_setting_of_before(server, info):
    """The value that is left changes nothing; another one is refused where the person looks."""
    graph = graphs.training(info, seed=12)
    graph["settings"]["inputs"]["local_attention"] = "content"
    server.succeed(graph)
    graph["settings"]["inputs"]["local_attention"] = "plain"
    error = server.run(graph).error
    assert error["node_type"] == "FewShotTrainingSettings"
    assert "local_attention is 'plain'; version 0.1.0 has no setting local_attention" in error["exception_message"]
