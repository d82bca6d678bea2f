"""All claims of the methods in one table: `run.py bench claims [--quick]` writes docs/claims.md.

Each claim is a row of another bench beside the figure of the document that made it. Every part of a bench is saved in
docs/claims with its date and commit, so that an interrupted run resumes; one that fails is named in the page and does
not affect the others. A part is measured anew when its code has changed; until then the page shows it as one of older
code. `--quick` writes docs/claims_quick.md beside it, and starts no part after its time.
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

from ...core.atomic import write_whole
from ...core.images import open_picture
from .. import HERE, file_of, measure_parts, names, parts_of
from ..harness.rows import BenchmarkRow, Parts
from ..harness.workshop import FOLDER, ROOT, sources_key, weights_key
from .page import PartResult, Sheet, page
from .table import CLAIMS

log = logging.getLogger(__name__)

DOCS = ROOT / "docs"
MAX_SHEETS = 2  # sheets of samples of one part on the page
# After this time `--quick` starts no further part; with the part that runs then it ends within 20 minutes.
QUICK_SECONDS = 15 * 60


class ClaimsReport:
    """The page and the saved parts of its benches; each bench has an equal share of the time of `--quick`.

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
        self.failed: dict[str, list[PartResult]] = {}

    @property
    def file(self) -> Path:
        return DOCS / ("claims_quick.md" if self.quick else "claims.md")

    def measure(self, bench: str) -> list[BenchmarkRow]:
        """A bench's rows: saved ones of the same sources and weights, else measured now, part after part.

        Raises RuntimeError, after the page is written, where none of its parts gave rows.
        """
        self.failed[bench] = []
        names_of_parts = list(parts_of(bench, self.quick)) if bench in names() else []
        rows: list[BenchmarkRow] = []
        for name in names_of_parts:
            part = self._load_part(bench, name)
            if part and not part.older:
                log.info("%s, %s was measured before: %s", bench, name, self._part_file(bench, name))
            elif self._over_time(bench):
                self._record_failure(bench, name, "the time of --quick was over; run it again to go on")
            else:
                part = self._measure_part(bench, name)
            rows += part.rows if part and not part.older else ()
            self.write()
        if names_of_parts and not rows:
            raise RuntimeError("; ".join(f"{part.name} failed: {part.failed}" for part in self.failed[bench]))
        return rows

    def _measure_part(self, bench: str, name: str) -> PartResult | None:
        """Measures a part and saves it with its sheets; None where it fails."""
        began = time.time()
        try:
            rows = [row for part_rows in self.run(bench, self.quick, [name]) for row in part_rows]
        except Exception as error:
            log.exception("%s, %s failed", bench, name)
            cause = error.__cause__ or error  # what `measure_parts` raised from
            self._record_failure(bench, name, f"{type(cause).__name__}: {cause}")
            return None
        today, file = datetime.date.today().isoformat(), self._part_file(bench, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        sheets = sheets_since(began, FOLDER, file)
        part = PartResult(name, tuple(rows), today, commit(), "", sheets, code_key(bench), weights_key())
        write_whole(file, (json.dumps(asdict(part), indent=2) + "\n").encode())
        return part

    def _record_failure(self, bench: str, name: str, reason: str) -> None:
        self.failed[bench].append(PartResult(name, failed=reason))

    def _over_time(self, bench: str) -> bool:
        share = (self.benches.index(bench) + 1) / len(self.benches)
        return self.quick and time.monotonic() - self.began > share * self.seconds

    def _part_file(self, bench: str, part: str) -> Path:
        return self.file.with_suffix("") / f"{bench}-{part}.json"

    def _load_part(self, bench: str, name: str) -> PartResult | None:
        """A part as it was last measured with these weights."""
        file = self._part_file(bench, name)
        if not file.is_file():
            return None
        values = json.loads(file.read_text(encoding="utf-8"))
        rows = [
            BenchmarkRow(**row | {"interval": row["interval"] and tuple(row["interval"])}) for row in values["rows"]
        ]
        sheets = [Sheet(sheet["file"], tuple(sheet["prompts"])) for sheet in values["sheets"]]
        part = PartResult(**values | {"rows": tuple(rows), "sheets": tuple(sheets), "older": False})
        return replace(part, older=part.code != code_key(bench)) if part.weights == weights_key() else None

    def write(self) -> None:
        """Write the page of all saved parts; a part that failed now is shown as failed."""
        parts_by_bench: dict[str, list[PartResult] | None] = {}
        for bench in self.benches:
            parts_by_bench[bench] = None
            if bench in names():
                failed = {part.name: part for part in self.failed.get(bench, [])}
                parts = [failed.get(name) or self._load_part(bench, name) for name in parts_of(bench, self.quick)]
                parts_by_bench[bench] = [part for part in parts if part]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(page(parts_by_bench, self.quick, weights_key()), encoding="utf-8")
        log.info("written: %s", self.file)


@cache
def code_key(bench: str) -> str:
    """Hash of the code that trains, samples and measures for a bench, without comments, and of the pocket's weights."""
    digest = hashlib.sha256(f"{sources_key()}\n{weights_key()}\n".encode())
    for file in imported_files(bench):
        digest.update(f"{file.relative_to(HERE)}\n{ast.dump(ast.parse(file.read_text(encoding='utf-8')))}\n".encode())
    return digest.hexdigest()[:12]


def imported_files(bench: str) -> list[Path]:
    """The bench's file and all files of benches that it imports, directly or through others."""
    files: set[Path] = set()
    pending = [file_of(bench), HERE / "__init__.py"]
    while pending:
        file = pending.pop()
        if file not in files:
            files.add(file)
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level:
                    target = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                    modules = [target.with_suffix(".py"), *(target / f"{alias.name}.py" for alias in node.names)]
                    pending += [module for module in modules if module.is_file() and HERE in module.parents]
    return sorted(files)


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


def sheets_since(began: float, folder: Path, part_file: Path) -> tuple[Sheet, ...]:
    """The first sheets of samples that were judged since `began` (s since 1970), beside a part's file.

    They are JPEG, since they are many and are committed.
    """
    sheets = sorted((folder / sources_key()[:12] / "readings").glob("*.png"), key=lambda path: path.stat().st_mtime)
    copied: list[Sheet] = []
    for sheet in [path for path in sheets if path.stat().st_mtime >= began]:
        description = sheet.with_suffix(".json")
        if description.is_file() and len(copied) < MAX_SHEETS:
            file = part_file.with_name(f"{part_file.stem}_{len(copied) + 1}.jpg")
            open_picture(sheet).convert("RGB").save(file, quality=85)
            prompts = json.loads(description.read_text(encoding="utf-8"))["prompts"]
            copied.append(Sheet(f"{file.parent.name}/{file.name}", tuple(prompts)))
    return tuple(copied)


def parts(quick: bool) -> Parts:
    """One part for each bench that measures claims."""
    report = ClaimsReport(quick)
    return {bench: partial(report.measure, bench) for bench in report.benches}
