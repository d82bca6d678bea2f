"""Resolve settings to what is trained: parameter sets, ranks and learned tokens."""

from __future__ import annotations

from ..core.values import TrainingSet
from ..models.adapters.inject import EVERYTHING, Full, LoraSpec, Spec
from ..models.adapters.learned_tokens import TokenSpec
from .settings.training import TrainingSettings


def sets_of(settings: TrainingSettings) -> dict[str, Spec]:
    """The parameter sets and how each is trained; the text encoder's is low-rank always."""
    adapter = settings.adapter
    if adapter is None:
        return {}
    return {
        name: Full() if adapter.in_full and name != "text" else LoraSpec(*adapter.size_of(name), adapter.block)
        for name in adapter.sets
    }


def adapted_parts(settings: TrainingSettings) -> frozenset[str]:
    """The parts of the denoiser whose inputs are kept for what is trained in them; keys and values read the text."""
    names = settings.adapter.sets if settings.adapter is not None else ()
    every = ("self", "cross", "feed_forward")
    return frozenset(every if EVERYTHING in names else (name for name in every if name in names))


def token_specs(settings: TrainingSettings, pictures: TrainingSet) -> tuple[TokenSpec, ...]:
    """The tokens to learn: the identifier of every subject."""
    word = settings.word
    if word is None:
        return ()
    named: dict[str, TokenSpec] = {}
    for concept in pictures.concepts:
        start = word.token_start or concept.noun
        named[concept.identifier] = TokenSpec(concept.identifier, start, word.token_vectors, word.token == "direction")
    return tuple(named.values())
