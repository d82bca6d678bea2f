"""`run.py test`: style, types, the oldest promised releases, and then all tests with their coverage of the engine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .console import say
from .environment import Environment

# pytest without the current folder on sys.path: the repository's folder `nodes` would shadow ComfyUI's module `nodes`.
PYTEST = "import sys; sys.path.pop(0); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
# What a second run on the oldest promised releases covers: formats, text encoding, adapters, training steps, and the
# models of transformers that measure.
LOWER = (
    "tests/models",
    "tests/core/test_link.py",
    "tests/vision/embedders",
    "tests/vision/preference",
    "tests/vision/test_fetch.py",
    "tests/vision/test_model_ids.py",
    "tests/evaluation/metrics/test_likeness.py",
    "tests/trainers/test_losses.py",
    "tests/trainers/test_loop.py",
    "tests/trainers/subject/test_subject.py",
)
LOWER_MARKS = "not slow and not server"


def run_all(env: Environment, lower: Environment, comfyui: Path, root: Path) -> int:
    """Every leg is run, whatever the ones before it said; pytest's closing line is the last of the output."""
    legs = {
        "ruff check": [str(env.script("ruff")), "check", "."],
        "ruff format": [str(env.script("ruff")), "format", "--check", "."],
        "types": [str(env.script("basedpyright")), "--pythonpath", str(env.python)],
        "oldest releases": pytest(lower, "-q", "-m", LOWER_MARKS, "-p", "no:cacheprovider", *LOWER),
    }
    failed = [name for name, command in legs.items() if leg(name, command, comfyui, root)]
    if failed:
        say(f"\nFAILED before the tests: {', '.join(failed)} (see above)")
    coverage = ["--cov", "--cov-config=pyproject.toml", "--cov-report=term", "--durations=10"]
    tests = leg("tests", pytest(env, *coverage, "tests"), comfyui, root)
    return tests or int(bool(failed))


def run_some(env: Environment, comfyui: Path, root: Path, arguments: list[str]) -> int:
    """Only pytest, with a person's own arguments."""
    return leg("tests", pytest(env, *arguments), comfyui, root)


def pytest(env: Environment, *arguments: str) -> list[str]:
    return [str(env.python), "-c", PYTEST, *arguments]


def leg(name: str, command: list[str], comfyui: Path, root: Path) -> int:
    say(f"\n--- {name}")
    began = time.monotonic()
    environ = {**os.environ, "COMFYUI_PATH": str(comfyui)}
    if sys.version_info >= (3, 12):
        environ["COVERAGE_CORE"] = "sysmon"  # costs next to nothing, where Python has it
    code = subprocess.run(command, cwd=root, env=environ).returncode
    if name != "tests":
        say(f"{name}: {'passed' if code == 0 else f'FAILED with {code}'} in {time.monotonic() - began:.0f} s")
    return code
