"""A workflow as ComfyUI's editor saves it, as the graph that runs: subgraphs opened, muted and bypassed nodes gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..prompts import NotFound
from .graph import UNNAMED, Link, Node

ALWAYS, MUTED, BYPASSED = 0, 2, 4
SUBGRAPH_INPUTS = -10
DEEPEST = 100  # nodes that only hand on, between two that do something
DEEPEST_SUBGRAPH = 8
CONTROLS = ("fixed", "increment", "decrement", "randomize")  # what becomes of a number after a run; no input
WIDGET_TYPES = ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO")
VIRTUAL = ("PrimitiveNode", "GetNode", "SetNode", "Note", "MarkdownNote")
# The widgets of nodes in the editor's order, which saved workflows do not name.
WIDGETS = """
CLIPTextEncode text
CLIPTextEncodeFlux clip_l t5xxl guidance
CLIPTextEncodeSD3 clip_l clip_g t5xxl empty_padding
CLIPTextEncodeSDXL width height crop_w crop_h target_width target_height text_g text_l
CLIPTextEncodeLumina2 system_prompt user_prompt
ConditioningAverage conditioning_to_strength
KSampler seed steps cfg sampler_name scheduler denoise
KSamplerAdvanced add_noise noise_seed steps cfg sampler_name scheduler start_at_step
    end_at_step return_with_leftover_noise
SamplerCustom add_noise noise_seed cfg
BasicScheduler scheduler steps denoise
RandomNoise noise_seed
KSamplerSelect sampler_name
CFGGuider cfg
UNETLoader unet_name weight_dtype
CheckpointLoaderSimple ckpt_name
SaveImage filename_prefix
PrimitiveString value
PrimitiveStringMultiline value
PrimitiveInt value
PrimitiveBoolean value
StringConcatenate string_a string_b delimiter
StringReplace string find replace
StringTrim string mode
CaseConverter string mode
StringSubstring string start end
RegexReplace string regex_pattern replace case_insensitive multiline dotall count
ComfySwitchNode switch
TextEncodeQwenImageEdit prompt
TextEncodeQwenImageEditPlus prompt
"""
WIDGET_NAMES = {
    kind: tuple(names) for kind, *names in map(str.split, WIDGETS.strip().replace("\n   ", "").splitlines())
}


def nodes_of(workflow: Mapping[str, Any]) -> dict[str, Node]:
    """The nodes of a saved workflow that run, by number; those in a subgraph are "number of its node:number"."""
    subgraphs = (workflow.get("definitions") or {}).get("subgraphs") or []
    return dict(_Sheet.of(workflow, {str(each.get("id")): each for each in subgraphs}).running())


@dataclass(frozen=True)
class _Sheet:
    """One level of a workflow: its nodes and links, and the node above that opens it."""

    nodes: Mapping[Any, Mapping[str, Any]]
    links: Mapping[Any, tuple[Any, int]]
    definitions: Mapping[str, Mapping[str, Any]]
    definition: Mapping[str, Any]
    prefix: str = ""
    above: _Sheet | None = None
    opener: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, graph: Mapping[str, Any], definitions: Mapping[str, Any], *above: Any) -> _Sheet:
        nodes = {node["id"]: node for node in graph.get("nodes") or [] if isinstance(node, Mapping) and "id" in node}
        links = {}
        for link in graph.get("links") or []:
            if isinstance(link, Mapping):
                links[link.get("id")] = (link.get("origin_id"), link.get("origin_slot") or 0)
            elif isinstance(link, list) and len(link) >= 5:
                links[link[0]] = (link[1], link[2])
        return cls(nodes, links, definitions, graph, *above)

    def running(self) -> Iterator[tuple[str, Node]]:
        for number, node in self.nodes.items():
            kind = str(node.get("type"))
            if node.get("mode", ALWAYS) in (MUTED, BYPASSED) or kind in VIRTUAL:
                continue
            if kind in self.definitions:
                yield from self.inside(node).running()
            else:
                inputs = self.widgets(node)
                for each in node.get("inputs") or []:
                    value = self.at(each.get("link"))
                    if value is not None:
                        inputs[str(each.get("name"))] = value
                yield f"{self.prefix}{number}", Node(kind, inputs)

    def inside(self, node: Mapping[str, Any]) -> _Sheet:
        if self.prefix.count(":") > DEEPEST_SUBGRAPH:
            raise NotFound("its subgraphs are in each other")
        prefix = f"{self.prefix}{node['id']}:"
        return _Sheet.of(self.definitions[str(node["type"])], self.definitions, prefix, self, node)

    def at(self, number: Any, depth: int = 0) -> Any:
        """What a link carries: a `Link` to a node that runs, a widget's value, or None."""
        if number is None or number not in self.links:
            return None
        if depth > DEEPEST:
            raise NotFound("its links lead in a circle")
        origin, slot = self.links[number]
        if origin == SUBGRAPH_INPUTS:
            return self._from_above(slot, depth)
        node = self.nodes.get(origin)
        if node is None or node.get("mode", ALWAYS) == MUTED:
            return None
        kind, inputs = str(node.get("type")), node.get("inputs") or []
        if node.get("mode", ALWAYS) == BYPASSED:
            return self.at(_bypass(node, slot), depth + 1)
        if kind.startswith("Reroute"):
            return self.at(inputs[0].get("link"), depth + 1) if inputs else None
        if kind == "PrimitiveNode":
            return next(iter(node.get("widgets_values") or []), None)
        if kind == "GetNode":
            return self._set_elsewhere(node, depth)
        if kind in self.definitions:
            ends = self.definitions[kind].get("outputs") or []
            ids = (ends[slot].get("linkIds") or [None]) if slot < len(ends) else [None]
            return self.inside(node).at(ids[0], depth + 1)
        return Link(f"{self.prefix}{origin}", slot)

    def _from_above(self, slot: int, depth: int) -> Any:
        """What the node above has at the subgraph's input `slot`: a link, or the value of its own widget."""
        names = self.definition.get("inputs") or []
        if self.above is None or self.opener is None or slot >= len(names):
            return None
        given = [each for each in self.opener.get("inputs") or [] if each.get("name") == names[slot].get("name")]
        value = self.above.at(given[0].get("link"), depth + 1) if given else None
        own = self.above.widgets(self.opener)
        if value is None and UNNAMED in own:
            raise NotFound(f"the workflow does not name the settings of {self.definition.get('name', 'its subgraph')}")
        return own.get(str(names[slot].get("name"))) if value is None else value

    def _set_elsewhere(self, node: Mapping[str, Any], depth: int) -> Any:
        """What the Set node of the same name is given, on this level or above."""
        sheet: _Sheet | None = self
        while sheet is not None:
            for other in sheet.nodes.values():
                same = other.get("widgets_values") == node.get("widgets_values")
                if other.get("type") == "SetNode" and same and other.get("inputs"):
                    return sheet.at(other["inputs"][0].get("link"), depth + 1)
            sheet = sheet.above
        return None

    def widgets(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a node's widgets by name; all as one, `UNNAMED`, where their names cannot be told."""
        values = node.get("widgets_values") or []
        if isinstance(values, Mapping):
            return dict(values)
        names = self._widget_names(node) if values else []
        found, rest = {}, list(values)
        for name in names:
            if not rest:
                return {UNNAMED: values}
            found[name] = rest.pop(0)
            if rest and rest[0] in CONTROLS:
                rest.pop(0)
        return {UNNAMED: values} if rest else found

    def _widget_names(self, node: Mapping[str, Any]) -> list[str]:
        """The names of a node's widgets in order: those of a subgraph's inputs, known ones, or those that it gives."""
        kind = str(node.get("type"))
        if kind in self.definitions:
            inputs = self.definitions[kind].get("inputs") or []
            return [str(each.get("name")) for each in inputs if str(each.get("type")).startswith(WIDGET_TYPES)]
        given = [str(each["widget"].get("name")) for each in node.get("inputs") or [] if each.get("widget")]
        return list(WIDGET_NAMES.get(kind, given))


def _bypass(node: Mapping[str, Any], slot: int) -> Any:
    """The link that a bypassed node hands on: at the input of the same place, or the first, of the output's type."""
    outputs, inputs = node.get("outputs") or [], node.get("inputs") or []
    kind = outputs[slot].get("type") if slot < len(outputs) else None
    same = [each for each in (*inputs[slot : slot + 1], *inputs) if each.get("type") == kind]
    return same[0].get("link") if same else None
