"""Widgets made from the fields of a settings class, which hold help, range and default of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field
from typing import Any

from ...core.settings import Settings
from ..comfy.host import io


def widgets_of(settings: type[Settings], **changes: Mapping[str, Any]) -> list[io.Input]:
    """One widget for each field of the dataclass `settings`; `changes` overrides arguments of single widgets."""
    return [_widget(about, dict(changes.get(name, {}))) for name, about in settings.named_fields().items()]


def _widget(about: Field, changes: dict[str, Any]) -> io.Input:
    says, default = about.metadata, about.default
    common = {"default": default, "tooltip": says["help"], "advanced": says["advanced"] or None, **changes}
    if says["choices"]:
        return io.Combo.Input(about.name, options=list(says["choices"]), **common)
    if isinstance(default, bool):
        return io.Boolean.Input(about.name, **common)
    if isinstance(default, str):
        return io.String.Input(about.name, **common)
    low = says["min"] if says["auto"] is None else min(says["auto"], says["min"])
    if isinstance(default, int):
        return io.Int.Input(about.name, min=int(low), max=int(says["max"]), step=int(says["step"]), **common)
    return io.Float.Input(about.name, min=low, max=says["max"], step=says["step"], round=False, **common)
