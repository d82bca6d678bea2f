"""What must hold before the pack is published: no blanks, and requirements.txt equal to the dependencies."""

from __future__ import annotations

import re
from pathlib import Path

from .said import Stop, say

BLANK = "FILL-IN"
BLANKS = {
    "PublisherId": "the publisher's id at registry.comfy.org",
    "Repository": "the address of the public repository",
}


def blanks(pyproject: str) -> list[str]:
    """The fields that still hold the mark, or nothing at all."""
    left = []
    for field in BLANKS:
        found = re.search(rf'^{field}\s*=\s*"([^"]*)"', pyproject, re.MULTILINE)
        if found is None or not found.group(1).strip() or BLANK in found.group(1):
            left.append(field)
    return left


def check(root: Path) -> None:
    left = blanks((root / "pyproject.toml").read_text(encoding="utf-8"))
    if left:
        wanted = "\n".join(f"  {field}: {BLANKS[field]}" for field in left)
        raise Stop(f"pyproject.toml cannot be published yet; fill in\n{wanted}")
    say("pyproject.toml names its publisher and its repository.")
