"""All claims of the methods in one table: `run.py bench claims [--quick]` writes docs/claims.md.

Each claim is a row of another bench beside the figure of the document that made it. Every part of a bench is kept with
its date and commit, so that a stopped run goes on; one that fails is named in the page and loses no other. A part is
measured anew when its code has changed; until then the page shows it as one of older code. `--quick` writes
docs/claims_quick.md beside it, and begins no part after its time.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import logging
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

from PIL import Image

from . import Parts, Row, measured, names, parts_of
from ._claims import CLAIMS
from ._claims_page import Part, Sheet, page
from ._subject_runs import FOLDER, ROOT, sources_key, weights_key

log = logging.getLogger(__name__)

DOCS = ROOT / "docs"
KEPT = FOLDER.parent / "claims"
MOST_PICTURES = 2
"""sheets of samples of one part on the page"""
QUICK_SECONDS = 15 * 60
"""after which `--quick` begins no further part: with the part that runs then it ends within 20 minutes"""


class Book:
    """The page and what is kept of its benches; each bench has an equal share of the time that `--quick` has.

    Args:
        run: gives the rows of some parts of a bench, as `measured` does.
        seconds: the time of `--quick`.
    """

    def __init__(self, quick: bool, run: Callable[..., Iterator[list[Row]]] = measured, seconds: float = QUICK_SECONDS):
        self.quick, self.run, self.seconds = quick, run, seconds
        self.began = time.monotonic()
        self.benches = sorted({claim.bench for claim in CLAIMS}, key=lambda name: name != "evaluate")  # the shortest
        self.failed: dict[str, list[Part]] = {}

    @property
    def file(self) -> Path:
        return DOCS / ("claims_quick.md" if self.quick else "claims.md")

    def measure(self, bench: str) -> list[Row]:
        """A bench's rows: kept ones of the same sources and weights, else measured now, part after part.

        Raises RuntimeError, after the page is written, where none of its parts gave rows.
        """
        self.failed[bench] = []
        parts = list(parts_of(bench, self.quick)) if bench in names() else []
        rows: list[Row] = []
        for name in parts:
            kept = self._kept(bench, name)
            if kept.is_file():
                log.info("%s, %s was measured before: %s", bench, name, kept)
            elif self._late(bench):
                self._fail(bench, name, "the time of --quick was over; run it again to go on")
            else:
                self._measure_part(bench, name, kept)
            rows += [row for row in (_part(kept).rows if kept.is_file() else ())]
            self.write()
        if parts and not rows:
            raise RuntimeError("; ".join(f"{part.name} failed: {part.failed}" for part in self.failed[bench]))
        return rows

    def _measure_part(self, bench: str, name: str, kept: Path) -> None:
        began = time.time()
        try:
            rows = [row for found in self.run(bench, self.quick, [name]) for row in found]
        except Exception as error:
            log.exception("%s, %s failed", bench, name)
            cause = error.__cause__ or error  # what `measured` met
            self._fail(bench, name, f"{type(cause).__name__}: {cause}")
            return
        sheets = drawn_since(began, FOLDER, kept.with_suffix(""))
        today = datetime.date.today().isoformat()
        told = Part(name, tuple(rows), today, commit(), sheets=sheets, weights=weights_key())
        kept.parent.mkdir(parents=True, exist_ok=True)
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(told), indent=2) + "\n", encoding="utf-8")
        draft.replace(kept)

    def _fail(self, bench: str, name: str, reason: str) -> None:
        self.failed[bench].append(Part(name, failed=reason))

    def _late(self, bench: str) -> bool:
        share = (self.benches.index(bench) + 1) / len(self.benches)
        return self.quick and time.monotonic() - self.began > share * self.seconds

    def _kept(self, bench: str, part: str) -> Path:
        return KEPT / measured_by(bench) / f"{bench}-{part}-{'quick' if self.quick else 'whole'}.json"

    def _shown(self, bench: str, name: str) -> tuple[Path, bool] | None:
        """Where a part of these weights is kept, and whether by older code; None where it was never measured."""
        kept = self._kept(bench, name)
        if kept.is_file():
            return kept, False
        older = [file for file in KEPT.glob(f"*/{kept.name}") if _part(file).weights == weights_key()]
        return (max(older, key=lambda file: file.stat().st_mtime), True) if older else None

    def write(self) -> None:
        """The page of all that is kept, with its pictures beside it."""
        found = {}
        into = self.file.with_suffix("")
        for bench in self.benches:
            if bench not in names():
                found[bench] = None
                continue
            failed = self.failed.get(bench, [])
            without = {part.name for part in failed}
            shown = [self._shown(bench, name) for name in parts_of(bench, self.quick) if name not in without]
            found[bench] = [replace(_beside(_part(f), f, into), older=older) for f, older in filter(None, shown)]
            found[bench] += failed
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(page(found, self.quick, weights_key()), encoding="utf-8")
        log.info("written: %s", self.file)


@cache
def measured_by(bench: str) -> str:
    """The code that trains, draws and measures for a bench, without comments, and the pocket's weights."""
    digest = hashlib.sha256(f"{sources_key()}\n{weights_key()}\n".encode())
    for file in files_of(bench):
        digest.update(f"{file.name}\n{ast.dump(ast.parse(file.read_text(encoding='utf-8')))}\n".encode())
    return digest.hexdigest()[:12]


def files_of(bench: str) -> list[Path]:
    """The bench's file and those of this folder that it imports, themselves or through others, by name."""
    here = {file.stem.rstrip("_"): file for file in (ROOT / "benchmarks").glob("*.py")}
    found: set[Path] = set()
    ahead = [here[bench], ROOT / "benchmarks" / "__init__.py"]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    ahead += [here[name] for name in names if name in here]
    return sorted(found)


def commit() -> str:
    """The commit that is measured, "+" where files differ from it."""
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude", "*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def drawn_since(began: float, folder: Path, into: Path) -> tuple[Sheet, ...]:
    """The first sheets of samples that were judged since `began` (s since 1970), copied into `into`."""
    sheets = sorted((folder / sources_key()[:12] / "readings").glob("*.png"), key=lambda path: path.stat().st_mtime)
    found = []
    for sheet in [path for path in sheets if path.stat().st_mtime >= began]:
        told = sheet.with_suffix(".json")
        if told.is_file() and len(found) < MOST_PICTURES:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(sheet, into / sheet.name)
            found.append(Sheet(sheet.name, tuple(json.loads(told.read_text(encoding="utf-8"))["prompts"])))
    return tuple(found)


def _beside(part: Part, file: Path, into: Path) -> Part:
    """The part with its sheets in the page's folder, as JPEG: they are many, and enter the history."""
    sheets = []
    for number, sheet in enumerate(part.sheets):
        into.mkdir(parents=True, exist_ok=True)
        name = f"{file.stem.rpartition('-')[0]}_{number + 1}.jpg"
        Image.open(file.with_suffix("") / sheet.file).convert("RGB").save(into / name, quality=85)
        sheets.append(Sheet(f"{into.name}/{name}", sheet.prompts))
    return replace(part, sheets=tuple(sheets))


def _part(file: Path) -> Part:
    """A part as it was kept."""
    values = json.loads(file.read_text(encoding="utf-8"))
    rows = [Row(**row | {"interval": row["interval"] and tuple(row["interval"])}) for row in values["rows"]]
    sheets = [Sheet(sheet["file"], tuple(sheet["prompts"])) for sheet in values["sheets"]]
    return Part(**values | {"rows": tuple(rows), "sheets": tuple(sheets)})


def parts(quick: bool) -> Parts:
    """One part for each bench that tells of claims."""
    book = Book(quick)
    return {bench: partial(book.measure, bench) for bench in book.benches}
