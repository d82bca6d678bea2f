"""The two forms of a workflow: what the graph editor saves (UI) and what /prompt takes (API).

Schemas come from /object_info. Only what this project's workflows use is known: widgets, links, DynamicCombo, notes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
NOTES = {"Note", "MarkdownNote"}
AFTER = "control_after_generate"
Info = Mapping[str, Any]


class Unfit(ValueError):
    """A workflow that does not agree with the schemas."""


def inputs_of(schema: Info, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name, type, options) of each input in order; `values` chooses the branches of DynamicCombos."""
    for kind in ("required", "optional"):
        for name, spec in schema.get(kind, {}).items():
            full, about = prefix + name, spec[1] if len(spec) > 1 else {}
            yield full, "COMBO" if isinstance(spec[0], list) else spec[0], about
            if spec[0] == DYNAMIC:
                chosen = next((o for o in about["options"] if o["key"] == values.get(full)), None)
                if chosen is None:
                    raise Unfit(f"{full} is {values.get(full)!r}; there are {[o['key'] for o in about['options']]}")
                yield from inputs_of(chosen["inputs"], values, full + ".")


def is_widget(kind: str, about: Mapping[str, Any]) -> bool:
    return (kind in WIDGETS or kind == DYNAMIC) and not about.get("forceInput")


def is_changed_after(name: str, about: Mapping[str, Any]) -> bool:
    """Whether the editor puts a widget "control after generate" behind this one: asked for, or by its name."""
    return bool(about.get(AFTER, name in ("seed", "noise_seed")))


# ---------------------------------------------------------------------------------------------------------- UI → API


def to_api(workflow: Mapping[str, Any], info: Info) -> dict[str, Any]:
    """The API form of a workflow that the editor saved."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph = {}
    for node in sorted(workflow["nodes"], key=lambda node: node["id"]):
        if node["type"] in NOTES or node.get("mode", 0) != 0:
            continue
        if node["type"] not in info:
            raise Unfit(f"there is no node {node['type']}")
        inputs = widget_values(node, info[node["type"]]["input"])
        linked = {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot.get("link") is not None}
        title = node.get("title") or info[node["type"]]["display_name"] or node["type"]
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs | linked,
            "_meta": {"title": title},
        }
    return graph


def widget_values(node: Mapping[str, Any], schema: Info) -> dict[str, Any]:
    """The widgets' values by name; their number must be exactly what the schema asks for."""
    rest = list(node.get("widgets_values", []))
    values: dict[str, Any] = {}
    for name, kind, about in inputs_of(schema, values):
        if not is_widget(kind, about):
            continue
        if not rest:
            raise Unfit(f"{node['type']} has no value for the widget {name}")
        values[name] = rest.pop(0)
        if is_changed_after(name, about):
            rest.pop(0)
    if rest:
        raise Unfit(f"{node['type']} has {len(rest)} widget values too many: {rest}")
    return values


# ---------------------------------------------------------------------------------------------------------- API → UI


def to_ui(graph: Mapping[str, Any], info: Info, places: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """The UI form of an API graph, with each node at its place; what `to_api` gives back is the same graph."""
    links: list[list[Any]] = []
    nodes = {key: _node(key, entry, info[entry["class_type"]], places[key]) for key, entry in graph.items()}
    for key, entry in graph.items():
        for slot, about in enumerate(nodes[key]["inputs"]):
            source = entry["inputs"].get(about["name"])
            if isinstance(source, list):
                output = nodes[source[0]]["outputs"][source[1]]
                about["link"] = len(links) + 1
                output["links"].append(about["link"])
                links.append([about["link"], int(source[0]), source[1], int(key), slot, output["type"]])
    return {
        "last_node_id": max(map(int, graph)),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _node(key: str, entry: Mapping[str, Any], schema: Info, place: tuple[int, int]) -> dict[str, Any]:
    values, slots, widgets = entry["inputs"], [], []
    for name, kind, about in inputs_of(schema["input"], values):
        slot: dict[str, Any] = {"name": name, "type": kind, "link": None}
        if is_widget(kind, about):
            slot["widget"] = {"name": name}
            linked = isinstance(values.get(name), list)
            widgets.append(about.get("default", "") if linked or name not in values else values[name])
            widgets += ["fixed"] if is_changed_after(name, about) else []
        slots.append(slot)
    pairs = zip(schema["output_name"], schema["output"], strict=True)
    own = schema["python_module"].startswith("custom_nodes")
    return {
        "id": int(key),
        "type": entry["class_type"],
        "pos": list(place),
        "size": [300, _height(schema, values)],
        "flags": {},
        "order": int(key) - 1,
        "mode": 0,
        "inputs": slots,
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in pairs],
        "title": entry["_meta"]["title"],
        "properties": {"cnr_id": "fewshot-training" if own else "comfy-core", "Node name for S&R": entry["class_type"]},
        "widgets_values": widgets,
    }


def _height(schema: Mapping[str, Any], values: Mapping[str, Any]) -> int:
    """About what the editor needs: a row for each socket and widget, more for a text of several lines."""
    sockets = widgets = 0
    for name, kind, about in inputs_of(schema["input"], values):
        if is_widget(kind, about):
            widgets += 24 * (4 if about.get("multiline") else 1 + is_changed_after(name, about))
        else:
            sockets += 20
    return 46 + max(sockets, 20 * len(schema["output"])) + widgets
