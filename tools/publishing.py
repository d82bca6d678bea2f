"""What must hold before the pack is published: no blanks, and requirements.txt equal to the dependencies."""

from __future__ import annotations

import re
from pathlib import Path

from .console import Stop, say

BLANK = "FILL-IN"
BLANKS = {
    "PublisherId": "the publisher's id at registry.comfy.org",
    "Repository": "the address of the public repository",
}


def blanks(pyproject: str) -> list[str]:
    """The fields that still hold the mark, or nothing at all."""
    left = []
    for field in BLANKS:
        match = re.search(rf'^{field}\s*=\s*"([^"]*)"', pyproject, re.MULTILINE)
        if match is None or not match.group(1).strip() or BLANK in match.group(1):
            left.append(field)
    return left


def dependencies(pyproject: str) -> list[str]:
    """The project's own dependencies; the standard library reads TOML from Python 3.11 on only."""
    match = re.search(r"^dependencies = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    return re.findall(r'^\s*"([^"]+)",$', match[1], re.MULTILINE) if match else []


def check(root: Path) -> None:
    """Raises Stop with what is left to do."""
    pyproject = (root / "pyproject.toml").read_text(encoding="utf-8")
    required = [line.strip() for line in (root / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    required = [line for line in required if line and not line.startswith("#")]
    if required != dependencies(pyproject):
        differing = ", ".join(sorted(set(required) ^ set(dependencies(pyproject)))) or "their order"
        raise Stop(f"requirements.txt is not equal to the dependencies in pyproject.toml: {differing}")
    left = blanks(pyproject)
    if left:
        wanted = "\n".join(f"  {field}: {BLANKS[field]}" for field in left)
        raise Stop(f"pyproject.toml cannot be published yet; fill in\n{wanted}")
    say("pyproject.toml names its publisher and its repository.")
