"""What a node gives at an output, as data: rules, and the notation in which the tables of nodes write them.

A line of a table is "class = output 0; output 1; ...", and goes on in lines that are indented. Each output is an
expression:

    text                      what is at this input: a widget's value, or what is linked to it
    `a+b`, joined(a, *more_)  several texts as one; several pictures as one; *more_ are the inputs more_1, more_2, ...
    a | b                     b where nothing is at a
    pipe.positive             a part of what is linked to pipe
    out, out.positive         the node's own output 0, a part of it
    wire(pipe, positive=a)    a wire of several parts; what is not named here is as in pipe
    choose(select, "input{}") the input that a choice names; choose(flag, yes, no) between two
    first(*any_), last(*ctx_) the first, or the last, of several that is there
    draw(positive, negative, latent)  a picture drawn here, over one that may have been drawn before
    blank                     pixels that no prompt of this graph made: empty or loaded
    shown(text)               text, or else what the node recorded when it ran
    never("why")              what only a run can tell
    function(a, b)            a function of `operations.py`
    "..."                     this text; `_` is an output that carries none of it
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Given:
    """What is at an input."""

    name: str


@dataclass(frozen=True)
class Numbered:
    """What is at the inputs `prefix`1, `prefix`2, ..."""

    prefix: str


@dataclass(frozen=True)
class Constant:
    value: str


@dataclass(frozen=True)
class Joined:
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Either:
    """The first of the rules that gives something, or the last."""

    rules: tuple[Rule, ...]
    reverse: bool = False
    whole: bool = False  # chosen as a whole, not for each part of a wire


@dataclass(frozen=True)
class PartOf:
    of: str  # an input, or "" for the node's own first output
    name: str


@dataclass(frozen=True)
class Wire:
    parts: Mapping[str, Rule]
    base: Rule | None = None


@dataclass(frozen=True)
class Chosen:
    by: str
    pattern: str = ""
    yes_no: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class DrawnBy:
    """A picture drawn here with these prompts, over the pixels of `over`."""

    positive: Rule
    negative: Rule
    over: Rule | None = None


@dataclass(frozen=True)
class Blank:
    """Pixels that no prompt of this graph made."""


@dataclass(frozen=True)
class Shown:
    rule: Rule


@dataclass(frozen=True)
class Never:
    why: str


@dataclass(frozen=True)
class Made:
    function: str
    rules: tuple[Rule, ...]


Rule = (
    Given | Numbered | Constant | Joined | Either | PartOf | Wire | Chosen | DrawnBy | Blank | Shown | Never | Made
)  # fmt: skip


def read_table(text: str) -> dict[str, tuple[Rule | None, ...]]:
    """The rules of each class's outputs; None for an output that carries no prompt and no picture."""
    table: dict[str, tuple[Rule | None, ...]] = {}
    for line in filter(None, map(str.strip, text.replace("\n    ", " ").splitlines())):
        names, _, outputs = line.partition(" = ")
        rules = tuple(_rule(ast.parse(part.strip(), mode="eval").body) for part in outputs.split(";"))
        for name in names.split(", "):
            if name in table:
                raise ValueError(f"{name} stands twice in the table")
            table[name] = rules
    return table


def _rule(node: ast.expr) -> Rule | None:
    match node:
        case ast.Name("_"):
            return None
        case ast.Name("blank"):
            return Blank()
        case ast.Name("out"):
            return PartOf("", "")
        case ast.Name(name):
            return Given(name)
        case ast.Constant(str(value)):
            return Constant(value)
        case ast.Starred(prefix):
            return Numbered(ast.unparse(prefix))
        case ast.BinOp(left, ast.Add(), right):
            return Joined(_all(left, right))
        case ast.BinOp(left, ast.BitOr(), right):
            return Either(_all(left, right))
        case ast.Attribute(ast.Name(name), part):
            return PartOf("" if name == "out" else name, part)
        case ast.Call(ast.Name(name), arguments, keywords):
            return _call(name, arguments, {str(k.arg): k.value for k in keywords})
    raise ValueError(f"{ast.unparse(node)} is no rule")


def _all(*nodes: ast.expr) -> tuple[Rule, ...]:
    return tuple(rule for node in nodes if (rule := _rule(node)) is not None)


def _call(name: str, arguments: list[ast.expr], parts: Mapping[str, ast.expr]) -> Rule:
    match name, arguments:
        case "choose", [ast.Name(by), ast.Constant(str(pattern))]:
            return Chosen(by, pattern)
        case "choose", [ast.Name(by), yes, no]:
            return Chosen(by, yes_no=_all(yes, no))
        case "input", [ast.Constant(str(given))]:
            return Given(given)
        case "never", [ast.Constant(str(why))]:
            return Never(why)
    rules = _all(*arguments)
    special: dict[str, Callable[[], Rule]] = {
        "joined": lambda: Joined(rules),
        "first": lambda: Either(rules, whole=True),
        "last": lambda: Either(rules, reverse=True),
        "shown": lambda: Shown(rules[0]),
        "draw": lambda: DrawnBy(*rules),
        "wire": lambda: Wire({key: rule for key, part in parts.items() for rule in _all(part)}, *rules),
    }
    return special[name]() if name in special else Made(name, rules)


def functions_in(rule: Rule | None) -> Iterator[str]:
    """The names of the functions that a rule uses."""
    if isinstance(rule, Made):
        yield rule.function
    for value in vars(rule).values() if rule is not None else ():
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else (value,)
        for part in inner:
            if not isinstance(part, (str, bool)) and part is not None:
                yield from functions_in(part)
