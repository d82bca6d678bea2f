"""A large file at a second place: linked where the disk can link, else copied."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from .errors import FewShotError


def keep(file: Path, place: Path) -> Path:
    """`place`, which holds what `file` holds; one that is there already stays.

    Raises:
        FewShotError: it cannot be written. Nothing half-written is left.
    """
    if place.exists():
        return place
    draft = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # on another disk, or one that cannot link
            try:
                shutil.copyfile(file, draft)
                os.replace(draft, place)
            finally:
                draft.unlink(missing_ok=True)
    except OSError as error:
        raise FewShotError(f"{place} cannot be written: {error.strerror or error}; free some space or rights") from None
    return place
