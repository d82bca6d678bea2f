"""The prompts of a picture made by ComfyUI, from the graph in its metadata."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ....models.public_names import BASE_WIDGETS
from ..prompts import NotFound, PicturePrompt, one_line
from .graph import Graph, Link, Node, NotThere, Pixels, known_nodes
from .rules import DrawnBy, Shown
from .workflow import nodes_of

SETTINGS = {
    "seed": "seed", "noise_seed": "seed", "steps": "steps", "cfg": "cfg", "sampler_name": "sampler",
    "scheduler": "scheduler", "denoise": "denoise",
}  # fmt: skip
PREVIEW, PREVIEW_PREFIX = "PreviewImage", "ComfyUI_temp_"


def read_comfy(prompt: str, workflow: str, file: PurePath) -> PicturePrompt:
    """The prompts of the first sampler that leads to the picture saved as `file`.

    `prompt` is the graph that ran, `workflow` the one in the editor; the latter alone is enough.

    Raises:
        NotFound: no graph, or none that is understood on the way; the message says why.
    """
    drawn, edited = _object(prompt), _object(workflow)
    graph = Graph(_nodes(drawn), _recorded(edited)) if _nodes(drawn) else Graph(nodes_of(edited), as_written=True)
    if not graph.nodes:
        raise NotFound("there is no graph in its metadata")
    samplers = saved_samplers(graph, file)
    positive = agreed([_text(graph, number, draw, "positive") for number, draw in samplers])
    try:
        negative, lacking = agreed([_text(graph, number, draw, "negative") for number, draw in samplers]), ""
    except NotFound as reason:
        negative, lacking = "", str(reason)
    if not positive.strip():
        raise NotFound("the prompt of its sampler is empty")
    settings = _settings(graph, samplers[0][0]) if len(samplers) == 1 else {}
    return PicturePrompt(one_line(positive), one_line(negative), settings, "ComfyUI", lacking)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _nodes(graph: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of a graph that ran: {"3": {"class_type": ..., "inputs": {name: value or [number, output]}}}."""

    def given(value: Any) -> Any:
        linked = isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
        linked = linked and (isinstance(value[0], str) or str(value[0]) in graph)
        return Link(str(value[0]), value[1]) if linked else value

    return {
        str(number): Node(node["class_type"], {name: given(value) for name, value in node["inputs"].items()})
        for number, node in graph.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)
    }


def _recorded(workflow: Mapping[str, Any]) -> dict[str, str]:
    """What nodes that show a text wrote into the workflow while it ran: a list in a list, unlike what the editor
    keeps, which may be of an earlier run."""
    showing = {kind for kind, rules in known_nodes().items() if any(isinstance(rule, Shown) for rule in rules)}
    found = {}
    nodes = workflow.get("nodes")
    for node in nodes if isinstance(nodes, list) else []:
        match node:
            case {"type": str(kind), "id": number, "widgets_values": [[str(text)]]} if kind in showing:
                found[str(number)] = text
    return found


# ---------------------------------------------------------------------------------------------------------- samplers


def saved_samplers(graph: Graph, file: PurePath) -> list[tuple[str, DrawnBy]]:
    """The first samplers on the ways to the saved picture."""
    saves = _saves(graph, file)
    try:
        pictures = [graph.value(link) for link in saves]
    except NotThere:
        saves = []
    if not saves:  # nothing says which picture it is: any sampler, as long as all have one prompt
        pictures = [
            graph.evaluate(rule, number)
            for number, node in graph.nodes.items()
            for rule in known_nodes().get(node.kind, ())
            if isinstance(rule, DrawnBy)
        ]
        if not pictures:
            raise NotFound(_no_sampler(graph))
    found = {sampler for picture in pictures if isinstance(picture, Pixels) for sampler in picture.samplers}
    if not found:
        raise NotFound("the picture was loaded from a file and not drawn by a sampler")
    return sorted(found, key=lambda sampler: sampler[0])


def _saves(graph: Graph, file: PurePath) -> list[Link]:
    """The links to what is saved; of several nodes that save, those whose prefix the file's name begins with."""
    saves = {n: node for n, node in graph.nodes.items() if "save" in node.kind.lower() and _pixels(node)}
    previews = {n: node for n, node in graph.nodes.items() if node.kind == PREVIEW and _pixels(node)}
    if file.name.startswith(PREVIEW_PREFIX) or not saves:
        saves = previews or saves
    named = [node for node in saves.values() if _named_by(node, file)]
    return [link for node in named or saves.values() for link in _pixels(node)]


def _pixels(node: Node) -> list[Link]:
    return [link for name, link in node.links().items() if name in ("image", "images")]


def _named_by(node: Node, file: PurePath) -> bool:
    prefix = node.inputs.get("filename_prefix")
    if not isinstance(prefix, str) or "%" in prefix:
        return False
    return re.fullmatch(rf"{re.escape(PurePath(prefix).name)}_\d+_?", file.stem) is not None


def _no_sampler(graph: Graph) -> str:
    unknown = [node.kind for node in graph.nodes.values() if node.kind not in known_nodes()]
    return f"no sampler in it is known{f', nor is {unknown[0]}' if unknown else ''}"


def _text(graph: Graph, number: str, draw: DrawnBy, which: str) -> str:
    value = graph.evaluate(getattr(draw, which), number)
    if isinstance(value, Pixels):
        raise NotFound("it was made of a picture, by a node that is not known")
    if value is None and which == "positive":
        raise NotFound(f"no prompt is connected to {graph.nodes[number].kind}")
    return "" if value is None else str(value)


def agreed(texts: Sequence[str]) -> str:
    """The one text of several samplers.

    Raises:
        NotFound: they differ.
    """
    different = dict.fromkeys(" ".join(text.split()) for text in texts)
    if len(different) > 1:
        raise NotFound(f"{len(different)} samplers with different prompts lead to it")
    return texts[0]


# ---------------------------------------------------------------------------------------------------------- settings


def _settings(graph: Graph, number: str) -> dict[str, Any]:
    """The sampler's seed, steps and so on, also of what is linked to it, and the base's file."""
    sampler = graph.nodes[number]
    helpers = [sampler.links().get(name) for name in ("noise", "guider", "sampler", "sigmas")]
    sources = [number, *(link.node for link in helpers if link is not None and link.node in graph.nodes)]
    settings: dict[str, Any] = {}
    for source in sources:
        for theirs, ours in SETTINGS.items():
            value = graph.nodes[source].inputs.get(theirs)
            if isinstance(value, Link):
                value = _number(graph, value)
            if isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value)):
                settings.setdefault(ours, value)
    if model := _base(graph, sources):
        settings["model"] = model
    return settings


def _number(graph: Graph, link: Link) -> Any:
    try:
        value = graph.value(link)
    except NotFound:
        return None
    return value if isinstance(value, (int, float, str)) else None


def _base(graph: Graph, sources: Sequence[str]) -> str:
    """The file of the base that the sampler draws with: up its links "model", or the only one in the graph."""
    waiting, seen = list(sources), set()
    while waiting:
        if (name := waiting.pop(0)) in seen or name not in graph.nodes:
            continue
        seen.add(name)
        node = graph.nodes[name]
        for widget in BASE_WIDGETS:
            if isinstance(node.inputs.get(widget), str):
                return str(node.inputs[widget])
        if (link := node.links().get("model")) is not None:
            waiting.append(link.node)
    named = [node.inputs.get(widget) for node in graph.nodes.values() for widget in BASE_WIDGETS]
    files = list(dict.fromkeys(name for name in named if isinstance(name, str)))
    return files[0] if len(files) == 1 else ""
