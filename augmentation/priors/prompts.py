"""Prompts for prior pictures: a grid of shot, pose and place over the class noun, walked in a seeded order."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from itertools import product

from ...core.text.prompts import with_article
from ..captions.nouns import kind_of

SHOTS = (
    "a photo of", "a picture of", "a close-up photo of", "a wide-angle photo of", "a photo from above of",
    "a side-view photo of", "a photo from behind of", "a low-angle photo of",
)  # fmt: skip
PLACES = (
    "", "in a park", "on the beach", "in a kitchen", "on the street", "in the snow", "in a room", "in the meadow",
    "at night", "in a studio", "against a plain white background",
)  # fmt: skip
LIVE_POSES = ("", "standing", "sitting", "lying down", "running", "jumping", "looking at the camera")
OBJECT_POSES = ("", "seen from the side", "lying on its side", "at an angle", "partially hidden")
KINDS_ALIVE = ("animal", "person")  # as `nouns.kind_of` names them
ALSO_ALIVE = frozenset("animal person people men women children dragon".split())


def grid(noun: str, known: Callable[[str], bool] = lambda phrase: True) -> list[str]:
    """Every "{shot} {a noun} {pose} {place}"; poses of living things for nouns that name one.

    Phrases for which `known` is false are left out, so that prompts use only words that the model knows.
    """
    alive = kind_of(noun) in KINDS_ALIVE or noun.lower().split()[-1] in ALSO_ALIVE
    poses = LIVE_POSES if alive else OBJECT_POSES
    shots, poses, places = (
        [phrase for i, phrase in enumerate(phrases) if i == 0 or known(phrase)] for phrases in (SHOTS, poses, PLACES)
    )
    subject = with_article(noun)
    return [
        " ".join(filter(None, (shot, subject, pose, location)))
        for shot, pose, location in product(shots, poses, places)
    ]


def own(templates: Sequence[str], noun: str) -> list[str]:
    """A person's prompts; "{noun}" in them becomes the class noun, with its article unless "the" or "my" is there."""

    def words(match: re.Match) -> str:
        return f"{match[1]} {noun}" if match[1] and match[1].lower() in ("the", "my", "this") else with_article(noun)

    return [re.sub(r"(?:\b(an?|the|my|this) )?\{noun\}", words, template) for template in templates]


def walk(prompts: Sequence[str], seed: int, count: int) -> list[str]:
    """`count` of `prompts`, each once before any comes again; entry i depends on `seed` and i alone."""
    chosen: list[str] = []
    turn = 0
    while len(chosen) < count:
        chosen += sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}/{turn}/{prompt}".encode()).digest())
        turn += 1
    return chosen[:count]


def seed_of(seed: int, index: int) -> int:
    """The random stream of prior picture `index`: 48 bits, so that any seed widget can hold it."""
    return int.from_bytes(hashlib.sha256(f"prior/{seed}/{index}".encode()).digest()[:6], "big")


def one_token_words(count_tokens: Callable[[str], int]) -> Callable[[str], bool]:
    """Whether each word of a phrase is one token by `count_tokens`: words in pieces are rarely ones a model knows."""

    def known(phrase: str) -> bool:
        words = re.findall(r"[a-z]+|-", phrase)
        return count_tokens(phrase) <= len(words)

    return known
