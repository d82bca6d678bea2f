"""A large file at a second place: linked where the disk can link, else copied."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .atomic import replacing
from .errors import FewShotError


def keep(file: Path, place: Path) -> Path:
    """`place`, which holds what `file` holds; one that is there already stays.

    Raises:
        FewShotError: it cannot be written. Nothing half-written is left.
    """
    if place.exists():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # on another disk, or one that cannot link
            with replacing(place) as draft:
                shutil.copyfile(file, draft)
    except OSError as error:
        raise FewShotError(f"{place} cannot be written: {error.strerror or error}; free some space or rights") from None
    return place
