"""All claims of the methods in one table: `run.py bench claims [--quick]` writes docs/claims.md.

Each claim is a row of another bench beside the figure of the document that made it. Every part of a bench is kept in
docs/claims with its date and commit, so that a stopped run goes on; one that fails is named in the page and loses no
other. A part is measured anew when its code has changed; until then the page shows it as one of older code. `--quick`
writes docs/claims_quick.md beside it, and begins no part after its time.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from pathlib import Path

from PIL import Image

from ...core.atomic import write_whole
from .. import HERE, file_of, measure_parts, names, parts_of
from ..harness.rows import BenchmarkRow, Parts
from ..harness.workshop import FOLDER, ROOT, sources_key, weights_key
from .page import Part, Sheet, page
from .table import CLAIMS

log = logging.getLogger(__name__)

DOCS = ROOT / "docs"
MOST_PICTURES = 2
"""sheets of samples of one part on the page"""
QUICK_SECONDS = 15 * 60
"""after which `--quick` begins no further part: with the part that runs then it ends within 20 minutes"""


class Book:
    """The page and what is kept of its benches; each bench has an equal share of the time that `--quick` has.

    Args:
        run: gives the rows of some parts of a bench, as `measure_parts` does.
        seconds: the time of `--quick`.
    """

    def __init__(
        self,
        quick: bool,
        run: Callable[..., Iterator[list[BenchmarkRow]]] = measure_parts,
        seconds: float = QUICK_SECONDS,
    ):
        self.quick, self.run, self.seconds = quick, run, seconds
        self.began = time.monotonic()
        benches = {claim.bench for claim in CLAIMS}
        self.benches = sorted(benches, key=lambda name: (name != "evaluate", name))  # the shortest first
        self.failed: dict[str, list[Part]] = {}

    @property
    def file(self) -> Path:
        return DOCS / ("claims_quick.md" if self.quick else "claims.md")

    def measure(self, bench: str) -> list[BenchmarkRow]:
        """A bench's rows: kept ones of the same sources and weights, else measured now, part after part.

        Raises RuntimeError, after the page is written, where none of its parts gave rows.
        """
        self.failed[bench] = []
        names_of_parts = list(parts_of(bench, self.quick)) if bench in names() else []
        rows: list[BenchmarkRow] = []
        for name in names_of_parts:
            part = self._kept(bench, name)
            if part and not part.older:
                log.info("%s, %s was measured before: %s", bench, name, self._place(bench, name))
            elif self._late(bench):
                self._fail(bench, name, "the time of --quick was over; run it again to go on")
            else:
                part = self._measure_part(bench, name)
            rows += part.rows if part and not part.older else ()
            self.write()
        if names_of_parts and not rows:
            raise RuntimeError("; ".join(f"{part.name} failed: {part.failed}" for part in self.failed[bench]))
        return rows

    def _measure_part(self, bench: str, name: str) -> Part | None:
        """The part, kept with its pictures; None where it fails."""
        began = time.time()
        try:
            rows = [row for found in self.run(bench, self.quick, [name]) for row in found]
        except Exception as error:
            log.exception("%s, %s failed", bench, name)
            cause = error.__cause__ or error  # what `measure_parts` raised from
            self._fail(bench, name, f"{type(cause).__name__}: {cause}")
            return None
        today, place = datetime.date.today().isoformat(), self._place(bench, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        sheets = drawn_since(began, FOLDER, place)
        part = Part(name, tuple(rows), today, commit(), "", sheets, measured_by(bench), weights_key())
        write_whole(place, (json.dumps(asdict(part), indent=2) + "\n").encode())
        return part

    def _fail(self, bench: str, name: str, reason: str) -> None:
        self.failed[bench].append(Part(name, failed=reason))

    def _late(self, bench: str) -> bool:
        share = (self.benches.index(bench) + 1) / len(self.benches)
        return self.quick and time.monotonic() - self.began > share * self.seconds

    def _place(self, bench: str, part: str) -> Path:
        return self.file.with_suffix("") / f"{bench}-{part}.json"

    def _kept(self, bench: str, name: str) -> Part | None:
        """A part as it was last measured with these weights."""
        file = self._place(bench, name)
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            BenchmarkRow(**row | {"interval": row["interval"] and tuple(row["interval"])}) for row in values["rows"]
        ]
        sheets = [Sheet(sheet["file"], tuple(sheet["prompts"])) for sheet in values["sheets"]]
        part = Part(**values | {"rows": tuple(rows), "sheets": tuple(sheets), "older": False})
        return replace(part, older=part.code != measured_by(bench)) if part.weights == weights_key() else None

    def write(self) -> None:
        """The page of all that is kept; a part that failed now is not shown as it was."""
        found: dict[str, list[Part] | None] = {}
        for bench in self.benches:
            found[bench] = None
            if bench in names():
                failed = {part.name: part for part in self.failed.get(bench, [])}
                parts = [failed.get(name) or self._kept(bench, name) for name in parts_of(bench, self.quick)]
                found[bench] = [part for part in parts if part]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(page(found, self.quick, weights_key()), encoding="utf-8")
        log.info("written: %s", self.file)


@cache
def measured_by(bench: str) -> str:
    """The code that trains, draws and measures for a bench, without comments, and the pocket's weights."""
    digest = hashlib.sha256(f"{sources_key()}\n{weights_key()}\n".encode())
    for file in files_of(bench):
        digest.update(f"{file.relative_to(HERE)}\n{ast.dump(ast.parse(file.read_text(encoding='utf-8')))}\n".encode())
    return digest.hexdigest()[:12]


def files_of(bench: str) -> list[Path]:
    """The bench's file and those of all benches that it imports, themselves or through others, by name."""
    found: set[Path] = set()
    ahead = [file_of(bench), HERE / "__init__.py"]
    while ahead:
        file = ahead.pop()
        if file not in found:
            found.add(file)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level:
                    place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    files = [place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)]
                    ahead += [file for file in files if file.is_file() and HERE in file.parents]
    return sorted(found)


def commit() -> str:
    """The commit that is measured, "+" where files other than the documents, which this writes, differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def drawn_since(began: float, folder: Path, place: Path) -> tuple[Sheet, ...]:
    """The first sheets of samples that were judged since `began` (s since 1970), beside a part's `place`.

    They are JPEG: they are many, and enter the history.
    """
    sheets = sorted((folder / sources_key()[:12] / "readings").glob("*.png"), key=lambda path: path.stat().st_mtime)
    found: list[Sheet] = []
    for sheet in [path for path in sheets if path.stat().st_mtime >= began]:
        told = sheet.with_suffix(".json")
        if told.is_file() and len(found) < MOST_PICTURES:
            file = place.with_name(f"{place.stem}_{len(found) + 1}.jpg")
            Image.open(sheet).convert("RGB").save(file, quality=85)
            prompts = json.loads(told.read_text(encoding="utf-8"))["prompts"]
            found.append(Sheet(f"{place.parent.name}/{file.name}", tuple(prompts)))
    return tuple(found)


def parts(quick: bool) -> Parts:
    """One part for each bench that tells of claims."""
    book = Book(quick)
    return {bench: partial(book.measure, bench) for bench in book.benches}
