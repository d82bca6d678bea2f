"""Benches: `run.py bench NAME` measures the parts of the module NAME here, prints a table and writes it as JSON.

A new bench is one file in this folder, or `parts.py` in a folder of its name, with a function `parts(quick: bool)`
that gives functions by names, each of which measures some rows; a bench with a single part may have `rows(quick) ->
list[BenchmarkRow]` instead. A trailing underscore of the file's name is not part of the bench's name (`import_.py` is
the bench `import`).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from .harness.rows import BenchmarkRow, Parts

log = logging.getLogger(__name__)

HERE = Path(__file__).parent


def names() -> list[str]:
    """The benches there are."""
    files = [file.stem.rstrip("_") for file in HERE.glob("*.py") if not file.stem.startswith("_")]
    return sorted([*files, *(file.parent.name for file in HERE.glob("*/parts.py"))])


def file_of(name: str) -> Path:
    """The file of the bench: a module of its name, or `parts.py` in a folder of its name."""
    candidates = (HERE / name / "parts.py", HERE / f"{name}.py", HERE / f"{name}_.py")
    return next(candidate for candidate in candidates if candidate.is_file())


def module_of(name: str) -> ModuleType:
    """The module of the bench."""
    return importlib.import_module(".".join((__name__, *file_of(name).relative_to(HERE).with_suffix("").parts)))


def parts_of(name: str, quick: bool, only: Sequence[str] = ()) -> Parts:
    """What the bench measures, or `only` some of it. Raises ValueError for an unknown name, listing those there are."""
    if name not in names():
        raise ValueError(f"there is no bench {name!r}; there are {', '.join(names())}")
    module = module_of(name)
    parts = module.parts(quick) if hasattr(module, "parts") else {name: lambda: module.rows(quick)}
    if unknown := [part for part in only if part not in parts]:
        raise ValueError(f"the bench {name!r} has no part {unknown[0]!r}; it has {', '.join(parts)}")
    return {part: call for part, call in parts.items() if not only or part in only}


def measure_parts(name: str, quick: bool, only: Sequence[str] = ()) -> Iterator[list[BenchmarkRow]]:
    """The rows of one part of a bench after the other, or of the parts `only`. A part that fails is named in the log.

    Raises ValueError for an unknown part, and RuntimeError at the end where nothing at all could be measured.
    """
    chosen = parts_of(name, quick, only)
    failed = []
    for part, call in chosen.items():
        try:
            rows = call()
        except Exception as error:
            log.exception("the part %r of the bench %r failed", part, name)
            failed.append((part, error))
            continue
        log.info("%s: %s", part, "; ".join(f"{row.name} {row.value:.3g}" for row in rows))
        yield rows
    if failed and len(failed) == len(chosen):
        raise RuntimeError(f"no part of the bench {name!r} could be measured") from failed[0][1]


def measure(name: str, quick: bool, only: Sequence[str] = ()) -> list[BenchmarkRow]:
    """All rows of a bench, or of the parts `only`."""
    return [row for rows in measure_parts(name, quick, only) for row in rows]
