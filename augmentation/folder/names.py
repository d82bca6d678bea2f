"""Names of files as people and programs write them: words, order, and lists of names for notes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

MOST_NAMED = 5


def plain_name(name: str) -> str:
    """`name` without what file systems and programs change: case, composed letters, spaces around it."""
    return unicodedata.normalize("NFC", name).strip().casefold()


@lru_cache(maxsize=4096)
def words_of(name: str) -> tuple[str, ...]:
    """The words of a name: "IMG_1-mask (2)" is img, 1, mask, 2."""
    return tuple(re.findall(r"[^\W_]+", plain_name(name)))


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Sorts "2.png" before "10.png"."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts] + [(0, 0, path.name)]


def listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and 7 more": names in a note."""
    found = list(names)
    if len(found) > MOST_NAMED + 1:
        found = [*found[:MOST_NAMED], f"{len(found) - MOST_NAMED} more"]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


def counted(count: int, thing: str) -> str:
    """ "1 picture", "2 pictures"."""
    return f"{count} {thing}" + ("" if count == 1 else "s")


def verb(names: Sequence[object], one: str, several: str) -> str:
    return one if len(names) == 1 else several
