"""Resolve settings to what is trained: parameter sets, ranks and learned tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from ..core.errors import FewShotError
from ..core.text.words import same_word
from ..core.values import Adapter, TrainingSet
from ..models.adapters.inject import EVERYTHING, Full, LoraSpec, Spec
from ..models.adapters.learned_tokens import TokenSpec
from ..models.contract import DiffusionModel
from .settings.training import AUTO_TOKEN, TrainingSettings

T = TypeVar("T", bound=TrainingSettings)


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


def resolve_token(
    settings: T, model: DiffusionModel, pictures: TrainingSet, start_from: Adapter | None = None
) -> tuple[T, tuple[str, ...]]:
    """The settings with `token` chosen where it is left open, and the reason.

    A word is learned where a LoRA file can carry it, so that the printed trigger works wherever the file does: each
    identifier is one token of the text encoder. What is trained on from keeps the meaning that its identifier has.
    """
    word = settings.word
    if word is not None and word.token != AUTO_TOKEN and not model.text_encoders:
        raise FewShotError(
            f"token is {word.token}, and the text encoder of {model.ref.name} is ComfyUI's and learns no words: set "
            "token to none"
        )
    if word is None or word.token != AUTO_TOKEN:
        return settings, ()
    if not model.text_encoders:
        why = f"the text encoder of {model.family.title} learns no words, and its captions say what a picture shows"
        return replace(settings, token="none"), (f"token = none ({why})",)
    names = [concept.identifier for concept in pictures.concepts]
    split = [name for name in names if model.count_tokens(name) != 1]
    learned = {} if start_from is None else start_from.embeddings
    known = [name for name in names if any(same_word(name, other) and _fits(of, word.token_vectors)
                                           for other, of in learned.items())]  # fmt: skip
    if split:
        token, why = "none", f"{split[0]} is several tokens, which stay as they are: a word of one, as sks, is learned"
    elif start_from is not None and len(known) < len(names):
        token, why = "none", "the adapter to train on from has no such word"
    else:
        carried = ", which the LoRA file carries" if word.token_vectors == 1 else ""
        token, why = "free", f"{', '.join(names)} is one token{carried}"
    return replace(settings, token=token), (f"token = {token} ({why})",)


def _fits(of: Mapping[str, Tensor], vectors: int) -> bool:
    return all(len(rows) == vectors for rows in of.values())


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
