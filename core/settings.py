"""What settings can do: help, range and default of each stand in one place; widgets and docs are made from them.

Nothing heavy is imported here, so that a graph's schemas can be built from settings at no cost.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, TypeVar

from .errors import FewShotError

S = TypeVar("S", bound="Settings")


class Range(NamedTuple):
    """The range of a number, both ends allowed, and the step of its widget."""

    min: float
    max: float
    step: float | None = None


def setting(
    default: Any,
    help: str,
    allowed: Range | tuple[str, ...] | None = None,
    auto: float | None = None,
    advanced: bool = False,
    matters: bool = True,
) -> Any:
    """A dataclass field with what a widget needs.

    Args:
        allowed: the range of a number, or the choices of a text.
        auto: the value that means "choose for me" (it need not lie in the range).
        advanced: hidden until asked for.
        matters: whether the value changes what is learned, and so belongs to the content key.
    """
    bounds = allowed if isinstance(allowed, Range) else None
    choices = allowed if bounds is None else None
    about = dict(zip(Range._fields, bounds or (None, None, None), strict=True))
    about |= dict(help=help, choices=choices, advanced=advanced, matters=matters, auto=auto)
    return field(default=default, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all settings can do: be checked, be read from a mapping, give a key.

    Settings are composed of groups, each a class of its own: a method's settings inherit the groups that it uses.
    """

    ORDER: ClassVar[tuple[str, ...]] = ()
    """all names as widgets show them, where that is not the order of the groups: saved graphs know values by place"""

    FORMER: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """settings that a method had in earlier versions, with the only value that is left of each; other values are
    refused by name"""

    FORMER_CHOICES: ClassVar[Mapping[str, Mapping[str, str]]] = MappingProxyType({})
    """by setting, what choices were called in earlier versions and are called now; both are taken"""

    UNUSED: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """settings of other methods that a method once carried without using them, with the value they had; refused by
    name. Both stay in the content key, so that runs made then are found again"""

    LATER: ClassVar[frozenset[str]] = frozenset()
    """settings that came after runs had been made, which were as with the default: the key then leaves them out"""

    def __post_init__(self) -> None:
        for about in fields(self):
            _check(about, getattr(self, about.name))

    @classmethod
    def from_mapping(cls: type[S], values: Mapping[str, Any]) -> S:
        """Settings from names and values; the word "auto" stands for the value that means it.

        Raises:
            FewShotError: a name is unknown (the nearest known one is named) or a value is out of its range.
        """
        known = cls.named_fields()
        for name in values:
            if name in cls.UNUSED or (name in cls.FORMER and values[name] != cls.FORMER[name]):
                raise FewShotError(
                    f"{name} is {values[name]!r}; version 0.1.0 has no setting {name} for this training, leave it out."
                )
        values = {name: value for name, value in values.items() if name not in cls.FORMER}
        refuse_unknown(values, known, "setting")
        return cls(**{name: _converted(known[name], cls._renamed(name, value)) for name, value in values.items()})

    @classmethod
    def _renamed(cls, name: str, value: Any) -> Any:
        """The value by today's name where it is a choice by a former one."""
        former = cls.FORMER_CHOICES.get(name, {})
        return former[value] if isinstance(value, str) and value in former else value

    @classmethod
    def named_fields(cls) -> dict[str, Field]:
        """The fields by their names, in the order of their widgets."""
        known = {about.name: about for about in fields(cls)}
        return {name: known[name] for name in cls.ORDER or known}

    def values(self) -> dict[str, Any]:
        """The values by their names, in the order of their widgets."""
        return {name: getattr(self, name) for name in self.named_fields()}

    def key(self) -> str:
        """Content key of the settings that change what is learned."""
        from .values import content_key

        kept = {about.name: getattr(self, about.name) for about in fields(self) if about.metadata["matters"]}
        kept = {name: value for name, value in kept.items() if not (name in self.LATER and self.is_default(name))}
        return content_key(type(self).__name__, {**self.UNUSED, **self.FORMER, **kept})

    def is_default(self, name: str) -> bool:
        return getattr(self, name) == self.named_fields()[name].default

    def is_auto(self, name: str) -> bool:
        """Whether the setting's value is left to be chosen."""
        auto = self.named_fields()[name].metadata["auto"]
        return auto is not None and getattr(self, name) == auto

    @property
    def left_open(self) -> tuple[str, ...]:
        """The settings whose values are left to be chosen."""
        return tuple(name for name in self.named_fields() if self.is_auto(name))


def refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Raise a FewShotError for the first name in `given` that is not in `known`, naming the nearest known one."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(sorted(known))}."
            raise FewShotError(f"there is no {what} {name!r}; {hint}")


def _converted(about: Field, value: Any) -> Any:
    """`value` as the field's type where nothing is lost by it."""
    auto = about.metadata["auto"]
    if value == "auto" and auto is not None:
        return auto
    kind = type(about.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _check(about: Field, value: Any) -> None:
    name, says = about.name, about.metadata
    assert about.default is not MISSING
    kind = type(about.default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise FewShotError(f"{name} is {value!r}; it must be {_KINDS[kind]}.")
    if says["choices"] and value not in says["choices"]:
        near = difflib.get_close_matches(str(value), says["choices"], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FewShotError(f"{name} is {value!r}; it must be one of {', '.join(says['choices'])}.{hint}")
    if kind in (int, float):
        _check_range(name, value, says)


def _check_range(name: str, value: float, says: Mapping[str, Any]) -> None:
    if says["auto"] is not None and value == says["auto"]:
        return
    low, high = says["min"], says["max"]
    if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
        auto = f", or {says['auto']:g} to have it chosen" if says["auto"] is not None else ""
        raise FewShotError(f"{name} is {value}; it must lie between {low:g} and {high:g}{auto}.")


_KINDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
