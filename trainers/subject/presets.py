"""Ways of training that have a name. A preset sets the values of widgets and nothing else: what runs is what is shown.

Choosing a preset sets every value that any preset has a say in (`COVERED`), to its own or to the default; steps, seed,
sizes and what only concerns speed stay the person's. In a graph the browser writes the values into the widgets, and a
preset becomes "custom" as soon as one of them is changed. Who sends a prompt without the browser may name the preset
and leave the values at their defaults; values that say something else are refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ...core.errors import FewShotError
from ...core.settings import refuse_unknown
from .settings import SubjectSettings

log = logging.getLogger(__name__)

CUSTOM = "custom"

_OWN: dict[str, dict[str, Any]] = {
    # Priors, attention tied to masks, everything that attends: the poster's second and third pillars; and a new word,
    # with which the subject is learned in a fraction of the steps.
    "Poster": dict(prior_weight=1.0, local_weight=0.05, parameter_set="attention", text_encoder=True, token="free"),
    # No priors, no autoencoder pass for them: the base's own error holds the class; the word keeps its length.
    "Fast": dict(prior_weight=0.0, local_weight=0.0, objective="dco", parameter_set="attention", token="direction"),
    # InstructBooth's first stage: the whole denoiser with priors (Chae et al. 2023), as in DreamBooth.
    "InstructBooth stage 1": dict(
        prior_weight=1.0, local_weight=0.0, parameter_set="all", tuning="full", caption_dropout=0.1, token="none"
    ),
    # Keys and values of cross-attention in full, and a new word (Kumari et al. 2023).
    "Custom Diffusion": dict(prior_weight=1.0, local_weight=0.0, parameter_set="cross_kv", tuning="full", token="free"),
    # A new word and nothing else (Gal et al. 2022).
    "Textual Inversion": dict(prior_weight=0.0, local_weight=0.0, parameter_set="none", token="free"),
    # A face fills its picture: more to hold, and less of what lies behind it.
    "Portrait": dict(
        prior_weight=1.0, local_weight=0.0, rank=32, text_encoder=True, background_weight=0.3, token="none"
    ),
    # The look of whole pictures: no class to keep, and an offset for flat tones.
    "Style": dict(prior_weight=0.0, local_weight=0.0, rank=32, noise_offset=0.05, token="none"),
    # Each subject's words to its own mask, on composites and single pictures; and a word for each, without which two
    # rare words mean nearly the same.
    "Multi-subject": dict(
        prior_weight=1.0, local_weight=0.05, rank=32, text_encoder=True, composite_share=0.5, token="free"
    ),
}

_DEFAULTS = {name: about.default for name, about in SubjectSettings.named_fields().items()}

COVERED: tuple[str, ...] = tuple(name for name in _DEFAULTS if any(name in own for own in _OWN.values()))
"""The settings that presets have a say in, in the order of the widgets."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {setting: own.get(setting, _DEFAULTS[setting]) for setting in COVERED} for name, own in _OWN.items()}
)
"""By preset the value of every covered setting."""

NAMES = (CUSTOM, *PRESETS)


def with_preset(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of settings as the preset wants them; "custom" leaves all as they are.

    Raises:
        FewShotError: there is no such preset, or a covered value is neither the preset's nor left at its default.
    """
    if name == CUSTOM:
        return dict(values)
    refuse_unknown({name: None}, dict.fromkeys(NAMES), "preset")
    for setting, wanted in PRESETS[name].items():
        given = values.get(setting, wanted)
        if given not in (wanted, _DEFAULTS[setting]):
            raise FewShotError(
                f"the preset {name} sets {setting} to {wanted!r}, but {setting} is {given!r}. Choose the preset "
                f"{CUSTOM!r} to keep your values, or leave {setting} at {_DEFAULTS[setting]!r}."
            )
    changed = {s: v for s, v in PRESETS[name].items() if v != _DEFAULTS[s]}
    log.info("the preset %s sets %s", name, ", ".join(f"{setting} = {value}" for setting, value in changed.items()))
    return dict(values) | dict(PRESETS[name])
