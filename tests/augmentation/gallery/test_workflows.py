"""Prompts in workflows as ComfyUI's editor saves them, where the graph that ran is not in the picture."""

from __future__ import annotations

import pytest

from comfyui_fewshot.augmentation.gallery.prompts import NotFound
from comfyui_fewshot.tests.augmentation.gallery.graphs import CAT, UGLY, prompts, read

MUTED, BYPASSED = 2, 4


def node(number, kind, widgets=(), links=None, outputs=(), mode=0, types=None):
    """A node of the editor: `links` are the numbers of links by the name of their input."""
    types = types or {}
    inputs = [{"name": name, "type": types.get(name, "*"), "link": link} for name, link in (links or {}).items()]
    return {
        "id": number, "type": kind, "mode": mode, "inputs": inputs, "widgets_values": widgets,
        "outputs": [{"name": kind, "type": kind} for kind in outputs],
    }  # fmt: skip


def links(*ways):
    """Links by number: (number, from, output, to)."""
    return [[number, origin, slot, target, 0, "*"] for number, origin, slot, target in ways]


def workflow(*more, positive=(), ways=(), text=CAT):
    """From two encoders ("6" by link 1, "7" by link 2) to a saved picture."""
    return {
        "nodes": [
            node(6, "CLIPTextEncode", [text], {"clip": None}),
            node(7, "CLIPTextEncode", [UGLY], {"clip": None}),
            node(5, "EmptyLatentImage", [512, 512, 1]),
            node(3, "KSampler", [5, "randomize", 20, 7.5, "euler", "simple", 1],
                 {"model": None, "positive": 1, "negative": 2, "latent_image": 3}),
            node(8, "VAEDecode", [], {"samples": 4}),
            node(9, "SaveImage", ["ComfyUI"], {"images": 5}),
            *more,
        ],
        "links": links(*(ways or [(1, 6, 0, 3)]), (2, 7, 0, 3), (3, 5, 0, 3), (4, 3, 0, 8), (5, 8, 0, 9)),
    }  # fmt: skip


def test_a_plain_workflow():
    found = read({}, workflow=workflow())
    assert (found.positive, found.negative) == (CAT, UGLY)
    assert found.parameters == {
        "seed": 5, "steps": 20, "cfg": 7.5, "sampler": "euler", "scheduler": "simple", "denoise": 1
    }  # fmt: skip


def test_the_graph_that_ran_goes_before_the_workflow():
    ran = {"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "it ran"}},
           "3": {"class_type": "KSampler", "inputs": {"positive": ["6", 0]}}}  # fmt: skip
    assert prompts(ran, workflow=workflow()) == ("it ran", "")


def converted(*more, ways, **widget):
    """A workflow whose positive text is a link, 10, in the place of its widget."""
    graph = workflow(*more, ways=[(1, 6, 0, 3), *ways], text="the widget's own")
    graph["nodes"][0]["inputs"].append({"name": "text", "type": "STRING", "link": 10, "widget": {"name": "text"}})
    return graph


WAYS = [
    ([node(20, "PrimitiveNode", [CAT])], [(10, 20, 0, 6)]),
    ([node(20, "PrimitiveStringMultiline", [CAT])], [(10, 20, 0, 6)]),
    ([node(20, "Reroute", [], {"": 11}), node(21, "PrimitiveString", [CAT])], [(10, 20, 0, 6), (11, 21, 0, 20)]),
    ([node(20, "StringConcatenate", ["a cat", "in a castle", " "])], [(10, 20, 0, 6)]),
    ([node(20, "GetNode", ["prompt"]), node(21, "SetNode", ["prompt"], {"STRING": 11}),
      node(22, "SetNode", ["other"], {"STRING": None}), node(23, "PrimitiveString", [CAT])],
     [(10, 20, 0, 6), (11, 23, 0, 21)]),
    ([node(20, "StringTrim", [], {"other": 12, "string": 11}, ["STRING"], BYPASSED, {"string": "STRING"}),
      node(21, "PrimitiveString", [CAT]), node(22, "PrimitiveInt", [1])],
     [(10, 20, 0, 6), (11, 21, 0, 20), (12, 22, 0, 20)]),
    ([node(20, "ComfySwitchNode", [True], {"on_false": 12, "on_true": 11, "switch": None}),
      node(21, "PrimitiveString", [CAT]), node(22, "PrimitiveString", ["a dog"])],
     [(10, 20, 0, 6), (11, 21, 0, 20), (12, 22, 0, 20)]),
]  # fmt: skip


@pytest.mark.parametrize("more, ways", WAYS)
def test_what_only_the_editor_knows_is_followed(more, ways):
    assert prompts({}, workflow=converted(*more, ways=ways)) == (CAT, UGLY)


def test_muted_nodes_give_nothing():
    muted = [node(20, "PrimitiveString", ["a dog"], mode=MUTED)]
    assert prompts({}, workflow=converted(*muted, ways=[(10, 20, 0, 6)])) == ("the widget's own", UGLY)
    graph = workflow()
    graph["nodes"][0]["mode"] = MUTED
    with pytest.raises(NotFound, match="no prompt is connected"):
        read({}, workflow=graph)
    graph = workflow(node(29, "SaveImage", ["dogs"], {"images": 5}, mode=MUTED))
    assert prompts({}, workflow=graph) == (CAT, UGLY)


def test_a_bypassed_sampler_hands_its_latents_on():
    second = node(11, "KSampler", [6, "fixed", 9, 7, "euler", "simple", 1], {"positive": 2, "latent_image": 4},
                  ["LATENT"], BYPASSED, {"latent_image": "LATENT", "positive": "CONDITIONING"})  # fmt: skip
    graph = workflow(second)
    graph["nodes"][4]["inputs"][0]["link"] = 6
    graph["links"] += links((6, 11, 0, 8))
    assert prompts({}, workflow=graph) == (CAT, UGLY)


@pytest.mark.parametrize("text, why", [("a {cat|dog} in a castle", "by chance"), ("a __cat__", "by chance")])
def test_what_is_drawn_after_the_workflow_was_written_is_not_found(text, why):
    with pytest.raises(NotFound, match=why):
        read({}, workflow=workflow(text=text))
    assert prompts({}, workflow=workflow(text=f"{CAT} // by night\n/* a\nnote */")) == (CAT, UGLY)


def test_settings_without_names_are_not_guessed():
    graph = workflow(node(20, "CR Combine Prompt", ["a", "b", "c", "d", ","]), ways=[(1, 20, 0, 3)])
    with pytest.raises(NotFound, match="does not name the settings of CR Combine Prompt"):
        read({}, workflow=graph)
    graph["nodes"][-1]["inputs"] = [
        {"name": name, "type": "STRING", "link": None, "widget": {"name": name}}
        for name in ("part1", "part2", "part3", "part4", "separator")
    ]
    assert prompts({}, workflow=graph) == ("a,b,c,d", UGLY)


def subgraph(text_link=None, own="the widget's own", outer=()):
    """A workflow whose positive encoder is in a subgraph, twice nested; `text_link` leads to its text from outside."""
    inner_link = {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 6, "target_slot": 1}
    out_link = {"id": 2, "origin_id": 6, "origin_slot": 0, "target_id": -20, "target_slot": 0}
    encoder = node(6, "CLIPTextEncode", [own], {"clip": None})
    encoder["inputs"].append({"name": "text", "type": "STRING", "link": 1, "widget": {"name": "text"}})
    ends = {
        "inputs": [{"name": "text", "type": "STRING", "linkIds": [1]}],
        "outputs": [{"name": "CONDITIONING", "linkIds": [2]}],
    }
    inside = node(30, "inner", list(outer), {"text": 1})
    graph = workflow(node(31, "outer", [], {"text": text_link}), node(20, "PrimitiveString", [CAT]),
                     ways=[(1, 31, 0, 3), (10, 20, 0, 31)])  # fmt: skip
    graph["definitions"] = {"subgraphs": [
        {"id": "inner", **ends, "nodes": [encoder], "links": [inner_link, out_link]},
        {"id": "outer", **ends, "nodes": [inside], "links": [inner_link | {"target_id": 30},
                                                             out_link | {"origin_id": 30}]},
    ]}  # fmt: skip
    return graph


def test_subgraphs_are_opened():
    assert prompts({}, workflow=subgraph(text_link=10)) == (CAT, UGLY)
    assert prompts({}, workflow=subgraph()) == ("the widget's own", UGLY)
    assert prompts({}, workflow=subgraph(outer=["of the one inside"])) == ("of the one inside", UGLY)
    graph = subgraph(outer=["of the one inside"])
    graph["nodes"][-2]["widgets_values"] = ["of this one"]
    assert prompts({}, workflow=graph) == ("of this one", UGLY)
    graph["nodes"][-2]["widgets_values"] = [4, "of this one", "another"]
    with pytest.raises(NotFound, match="does not name the settings"):
        read({}, workflow=graph)


def test_workflows_that_are_none_are_told():
    with pytest.raises(NotFound, match="no graph"):
        read({}, workflow={"nodes": []})
    looping = converted(node(20, "Reroute", [], {"": 11}), ways=[(10, 20, 0, 6), (11, 20, 0, 20)])
    with pytest.raises(NotFound, match="in a circle"):
        read({}, workflow=looping)
    inside = subgraph()
    inside["definitions"]["subgraphs"][0]["nodes"][0]["type"] = "outer"
    with pytest.raises(NotFound, match="in each other"):
        read({}, workflow=inside)
