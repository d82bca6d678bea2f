"""Follows a ComfyUI graph from the saved picture to its first sampler, and from that sampler to its prompts.

Only nodes of the tables are followed, each by the meaning of its output; anything else ends the search with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ..prompts import NotFound
from .core_nodes import CORE_NODES
from .operations import OPERATIONS, allow, joined, written
from .pack_nodes import PACK_NODES
from .rules import (
    Blank,
    Chosen,
    Constant,
    DrawnBy,
    Either,
    Given,
    Joined,
    Made,
    Never,
    Numbered,
    PartOf,
    Rule,
    Shown,
    Wire,
    read_table,
)

DEEPEST = 100  # nodes on one way
MOST_LETTERS = 20_000_000  # characters of all texts on the way
PIXELS = {"image", "images", "pixels", "samples", "latent", "latents", "latent_image"}
UNNAMED = "settings without names"  # the input that holds a node's values where a workflow does not name them
# Inputs of a node that may draw a picture itself.
DRAWING = re.compile(r"prompt|text|positive|negative|conditioning|guider|sampler|pipe|context|ctx", re.IGNORECASE)
MODELS = {"model", "base_model", "refiner_model"}  # links to what draws, unlike one that only enlarges


class NotThere(NotFound):
    """A link leads to a node that is not in the graph."""


@dataclass(frozen=True)
class Link:
    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """A node and what is at its inputs: values of widgets, and links."""

    kind: str
    inputs: Mapping[str, Any]

    def links(self) -> dict[str, Link]:
        return {name: value for name, value in self.inputs.items() if isinstance(value, Link)}


@dataclass(frozen=True)
class Pixels:
    """What a wire of pixels carries: the first samplers that drew them, none for loaded or empty ones."""

    samplers: frozenset[tuple[str, DrawnBy]] = frozenset()


@cache
def known_nodes() -> Mapping[str, tuple[Rule | None, ...]]:
    """The rules of all nodes that are known."""
    return read_table(f"{CORE_NODES}\n{PACK_NODES}")


@dataclass
class Graph:
    """`recorded`: texts that nodes wrote down while this picture was made, by the node's number.

    `as_written`: texts are as a person wrote them, before one of {a|b} was drawn and comments were left out.
    """

    nodes: Mapping[str, Node]
    recorded: Mapping[str, str] = field(default_factory=dict)
    as_written: bool = False
    _values: dict[tuple[Link, str], Any] = field(default_factory=dict)
    _way: list[tuple[Link, str]] = field(default_factory=list)
    _letters: int = 0

    def value(self, link: Link, part: str = "") -> Any:
        """What a link carries: a text, a number, a `Pixels`, or None; `part` of it where it is a wire of several.

        Raises:
            NotFound: the way leads through what is not known.
        """
        key = (link, part)
        if key in self._way:
            raise NotFound("its nodes lead to each other in a circle")
        if len(self._way) >= DEEPEST:
            raise NotFound(f"it is more than {DEEPEST} nodes away")
        if key not in self._values:
            self._way.append(key)
            try:
                value = self._values[key] = self._followed(link, part)
                self._letters += len(value) if isinstance(value, str) else 0
                allow(self._letters, MOST_LETTERS)
            finally:
                self._way.pop()
        return self._values[key]

    def _followed(self, link: Link, part: str) -> Any:
        node = self.nodes.get(link.node)
        if node is None:
            raise NotThere("a link leads to a node that is not in the metadata")
        if node.kind not in known_nodes():
            return self._filtered(node)
        outputs = known_nodes()[node.kind]
        rule = outputs[link.slot] if 0 <= link.slot < len(outputs) else None
        if rule is None:
            raise NotFound(f"it comes out of output {link.slot} of {node.kind}, which is not known")
        return self.evaluate(rule, link.node, part)

    def _filtered(self, node: Node) -> Pixels:
        """The picture that an unknown node with one input of pixels, and nothing to draw with, works on."""
        pixels = [link for name, link in node.links().items() if name in PIXELS]
        if len(pixels) == 1 and not may_draw(node) and isinstance(value := self.value(pixels[0]), Pixels):
            return value
        raise NotFound(f"it goes through {node.kind}, which is not known")

    def evaluate(self, rule: Rule, number: str, part: str = "") -> Any:
        """What a rule gives at the node `number`."""
        match rule:
            case Given(name):
                return self._at(number, name, part)
            case Constant(text):
                return text
            case PartOf(of, name):
                return self.value(Link(number, 0), name) if not of else self._at(number, of, name)
            case Wire():
                return self._of_wire(rule, number, part)
            case Joined(rules):
                return together([self.evaluate(each, number, part) for each in self._spread(rules, number)])
            case Either():
                return self._either(rule, number, part)
            case Chosen():
                return self._chosen(rule, number, part)
            case DrawnBy():
                return self._drawn(rule, number)
            case Blank():
                return Pixels()
            case Never(why):
                raise NotFound(f"{self.nodes[number].kind} {why}")
            case Shown(inner):
                return self._shown(inner, number)
            case Made(function, rules):
                values = [self.evaluate(each, number) for each in self._spread(rules, number)]
                if any(isinstance(value, Pixels) for value in values):
                    raise NotFound("it was made of a picture, by a node that is not known")
                return short(OPERATIONS[function](*values))
        raise NotFound(f"{self.nodes[number].kind} is not understood")

    def _at(self, number: str, name: str, part: str = "") -> Any:
        inputs = self.nodes[number].inputs
        value = inputs.get(name)
        if value is None and UNNAMED in inputs:
            raise NotFound(f"the workflow does not name the settings of {self.nodes[number].kind}")
        if isinstance(value, Link):
            return self.value(value, part)
        if part or value is None:
            return None
        if not isinstance(value, (str, int, float)):
            raise NotFound(f"{name} of {self.nodes[number].kind} is no text")
        return written(short(value)) if self.as_written and isinstance(value, str) else short(value)

    def _spread(self, rules: tuple[Rule, ...], number: str) -> Iterator[Rule]:
        """`rules` with those for numbered inputs replaced by one for each input."""
        for rule in rules:
            if isinstance(rule, Numbered):
                pattern = re.compile(rf"{re.escape(rule.prefix)}(\d+)")
                found = [(int(m[1]), name) for name in self.nodes[number].inputs if (m := pattern.fullmatch(name))]
                yield from (Given(name) for _, name in sorted(found))
            else:
                yield rule

    def _of_wire(self, wire: Wire, number: str, part: str) -> Any:
        if not part:
            raise NotFound(f"{self.nodes[number].kind} gives no text by itself")
        value = self.evaluate(wire.parts[part], number) if part in wire.parts else None
        return self.evaluate(wire.base, number, part) if value is None and wire.base is not None else value

    def _either(self, rule: Either, number: str, part: str) -> Any:
        rules = list(self._spread(rule.rules, number))
        for each in reversed(rules) if rule.reverse else rules:
            value = self.evaluate(each, number, part)
            linked = isinstance(each, Given) and isinstance(self.nodes[number].inputs.get(each.name), Link)
            if value is not None or (part and rule.whole and linked):
                return value
        return None

    def _chosen(self, rule: Chosen, number: str, part: str) -> Any:
        choice = self._at(number, rule.by)
        if isinstance(choice, (str, int)) and rule.pattern:
            return self._at(number, rule.pattern.format(choice), part)
        if isinstance(choice, bool):
            return self.evaluate(rule.yes_no[0 if choice else 1], number, part)
        raise NotFound(f"what {self.nodes[number].kind} chose is not known")

    def _shown(self, rule: Rule, number: str) -> Any:
        try:
            return self.evaluate(rule, number)
        except NotFound:
            if number in self.recorded:
                return short(self.recorded[number])
            raise

    # ----------------------------------------------------------------------------------------------------- samplers

    def _drawn(self, draw: DrawnBy, number: str) -> Pixels:
        """The first samplers of what is drawn here: those of the pixels below it, else this one."""
        here = Pixels(frozenset({(number, draw)}))
        if draw.over is None:
            return here
        try:
            below = self.evaluate(draw.over, number)
            if below is not None and not isinstance(below, Pixels):
                raise NotFound("its pixels come from a text")
            if below is None and self._upstream(draw.over, number):
                raise NotFound("what it was drawn over is not known")
        except NotThere:
            return here
        except NotFound:
            if any(may_draw(node) for node in self._upstream(draw.over, number)):
                raise
            return here
        if below is None or not below.samplers:
            return here
        # From pure noise nothing is left of the pixels below but what a mask keeps.
        return Pixels(below.samplers | here.samplers) if self._from_noise(number) else below

    def _upstream(self, over: Rule, number: str) -> list[Node]:
        """All nodes that what is at the inputs of `over` may come from."""
        names = [name for name in (getattr(over, "name", ""), getattr(over, "of", "")) if name]
        names += [inner for each in getattr(over, "rules", ()) if (inner := getattr(each, "name", ""))]
        inputs = self.nodes[number].links()
        waiting, seen = [inputs[name].node for name in names if name in inputs], set()
        while waiting:
            if (name := waiting.pop()) not in seen and name in self.nodes:
                seen.add(name)
                waiting += [link.node for link in self.nodes[name].links().values()]
        return [self.nodes[name] for name in seen]

    def _from_noise(self, number: str) -> bool:
        """Whether a sampler begins from noise alone."""
        inputs = dict(self.nodes[number].inputs)
        sigmas = inputs.get("sigmas")
        if isinstance(sigmas, Link) and sigmas.node in self.nodes:
            inputs |= self.nodes[sigmas.node].inputs
        advanced = inputs.get("start_at_step") == 0 and inputs.get("add_noise") == "enable"
        return advanced or inputs.get("denoise") == 1


def together(values: list[Any]) -> Any:
    """Several texts as one prompt, or several pictures as one."""
    there = [value for value in values if value is not None]
    if there and all(isinstance(value, Pixels) for value in there):
        return Pixels(frozenset().union(*(value.samplers for value in there)))
    if any(isinstance(value, Pixels) for value in there):
        raise NotFound("it was made of a picture, by a node that is not known")
    return there[0] if len(there) == 1 else short(joined(*there))


def short(value: Any) -> Any:
    allow(len(value) if isinstance(value, str) else 0)
    return value


def may_draw(node: Node) -> bool:
    """Whether a node may draw a picture by a prompt: a known sampler, or an unknown node with the inputs of one."""
    if rules := known_nodes().get(node.kind):
        return any(isinstance(rule, DrawnBy) for rule in rules)
    values = [*node.inputs.values(), *node.inputs.get(UNNAMED, ())]
    if node.links().keys() & MODELS or any(map(DRAWING.search, node.inputs)):
        return True
    return any(isinstance(value, str) and " " in value for value in values)
