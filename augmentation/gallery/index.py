"""A person's gallery as a source of prompts: an index of the prompts in its pictures, searched by words and by CLIP.

The index is one SQLite file with FTS5. It is updated by size and time of each file, so that a second run
reads only new files; unreadable pictures are recorded with the reason.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...core.errors import FewShotError
from ...core.images import decode
from ...core.progress import NullProgress, Progress
from ...vision.embedders.interface import ImageTextEmbedder
from .metadata import ENDINGS, find_prompt
from .prompts import NotFound
from .ranking import Ranking, query_of, reciprocal_rank_fusion

log = logging.getLogger(__name__)
SCHEMA_VERSION = 2  # an index of another version is rebuilt
FILES_PER_COMMIT = 256  # between two commits and two progress reports
BATCH = 32
REASONS_SHOWN = 5
DAMAGE_MESSAGES = ("not a database", "malformed", "no such table", "no such column")  # in SQLite's errors
TABLES = """
CREATE TABLE files(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INTEGER, time INTEGER, error TEXT, reason TEXT);
CREATE TABLE prompts(id INTEGER PRIMARY KEY REFERENCES files(id), positive TEXT, negative TEXT, parameters TEXT);
CREATE VIRTUAL TABLE words USING fts5(positive, content='', tokenize='porter unicode61');
CREATE TABLE likeness(id INTEGER, model TEXT, vector BLOB, PRIMARY KEY(id, model));
"""


@dataclass(frozen=True)
class GalleryEntry:
    """A picture with a prompt. `score` is higher for a better match, on a scale of its search."""

    path: Path
    positive: str
    negative: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    score: float = 0.0


@dataclass(frozen=True)
class IndexUpdate:
    """The result of updating an index; `broken` names unreadable files, with the reason.

    `unfound` are the reasons why a prompt was not found, each with how many pictures it is about and one of them.
    """

    added: int
    removed: int
    total: int
    with_prompt: int
    broken: tuple[str, ...] = ()
    unfound: tuple[tuple[str, int, str], ...] = ()

    def __str__(self) -> str:
        text = f"{self.total} pictures, {self.with_prompt} with a prompt; {self.added} read, {self.removed} gone"
        text += f"; {len(self.broken)} cannot be read: {', '.join(self.broken[:3])}" if self.broken else ""
        return text + (f"\n{unfound_text(self.unfound)}" if self.unfound else "")


def unfound_text(unfound: Sequence[tuple[str, int, str]]) -> str:
    """How many pictures have no prompt that can be found, and why; the commonest reasons first."""
    count = sum(number for _, number, _ in unfound)
    shown = [f"{number}: {reason} ({name})" for reason, number, name in unfound[:REASONS_SHOWN]]
    if rest := count - sum(number for _, number, _ in unfound[:REASONS_SHOWN]):
        shown.append(f"{rest}: other reasons")
    return "\n".join([f"{count} without a prompt that can be found:", *shown])


def _as_text(text: str) -> str:
    """`text` as the index holds it: what is no letter, in names that are no UTF-8 too, is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode()


class Gallery:
    """The index in `file` of the pictures below `folder`, but for folders named in `leave_out`.

    Nothing outside `folder` is read: links that lead out of it are skipped.
    """

    def __init__(self, folder: Path, file: Path, leave_out: Sequence[str] = ()):
        self.folder, self.file, self.leave_out = Path(folder), Path(file), frozenset(leave_out)
        if not self.folder.is_dir():
            raise FewShotError(f"there is no folder {self.folder}; choose one that holds your pictures")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            try:
                base = self._connected()
            except sqlite3.DatabaseError as error:
                if not any(words in str(error) for words in DAMAGE_MESSAGES):
                    raise
                log.warning("the index %s is damaged (%s); it is made anew", self.file, error)
                self.file.unlink(missing_ok=True)
                base = self._connected()
            with closing(base):
                yield base
        except (sqlite3.Error, OSError) as error:
            raise FewShotError(
                f"the index {self.file} of the gallery cannot be used ({error}); close other programs that have it "
                "open, see that its folder can be written to, or remove what lies there, and it is made anew"
            ) from error

    def _connected(self) -> sqlite3.Connection:
        base = sqlite3.connect(self.file)
        try:
            if base.execute("PRAGMA user_version").fetchone()[0] != SCHEMA_VERSION:
                names = [row[0] for row in base.execute("SELECT name FROM sqlite_master WHERE type='table'")]
                for name in (n for n in ("words", "files", "prompts", "likeness") if n in names):
                    base.execute(f"DROP TABLE {name}")
                base.executescript(f"{TABLES}PRAGMA user_version={SCHEMA_VERSION};")
            for name in ("files", "prompts", "words", "likeness"):
                base.execute(f"SELECT 1 FROM {name} LIMIT 1")
        except sqlite3.DatabaseError:
            base.close()
            raise
        return base

    # --------------------------------------------------------------------------------------------------- indexing

    def update(self, progress: Progress | None = None) -> IndexUpdate:
        """Read the prompts of new and changed files, forget removed ones."""
        progress = progress or NullProgress()
        with self._open() as base:
            known = {name: (size, time) for name, size, time in base.execute("SELECT name, size, time FROM files")}
            present = {_as_text(name): (name, state) for name, state in self._files()}
            removed = [name for name in known if name not in present]
            new = [name for name, (_, state) in present.items() if known.get(name) != state]
            self._forget(base, [*removed, *(name for name in new if name in known)])
            for start in range(0, len(new), FILES_PER_COMMIT):
                progress.check()
                with base:
                    for name in new[start : start + FILES_PER_COMMIT]:
                        self._read(base, name, *present[name])
                progress.report(min(start + FILES_PER_COMMIT, len(new)), len(new), f"{len(new)} new pictures")
            broken = tuple(f"{n} ({e})" for n, e in base.execute("SELECT name, error FROM files WHERE error != ''"))
            count = base.execute("SELECT count(*) FROM prompts").fetchone()[0]
            unfound = self._unfound(base)
        return IndexUpdate(len(new), len(removed), len(present), count, broken, unfound)

    @staticmethod
    def _unfound(base: sqlite3.Connection) -> tuple[tuple[str, int, str], ...]:
        rows = base.execute(
            "SELECT reason, count(*), min(name) FROM files WHERE reason != '' GROUP BY reason ORDER BY 2 DESC, 1"
        )
        return tuple(rows.fetchall())

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """(path below the folder, (bytes, time)) of each picture; links that lead out of the folder are left out."""
        root = os.path.realpath(self.folder)
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in self.leave_out)
            for name in sorted(names):
                path = os.path.join(folder, name)
                if not name.lower().endswith(ENDINGS) or name.startswith("."):
                    continue
                if os.path.islink(path) and os.path.commonpath([root, os.path.realpath(path)]) != root:
                    continue
                try:
                    state = os.stat(path)
                except OSError:
                    continue  # removed while the folder was listed
                yield os.path.relpath(path, root).replace(os.sep, "/"), (state.st_size, state.st_mtime_ns)

    def state(self) -> str:
        """Changes whenever a picture below the folder is added, removed or written."""
        digest = hashlib.sha256()
        for name, state in self._files():
            digest.update(f"{name}\x1f{state}\n".encode("utf-8", "backslashreplace"))
        return digest.hexdigest()

    @staticmethod
    def _forget(base: sqlite3.Connection, names: Sequence[str]) -> None:
        with base:
            for name in names:
                row = base.execute(
                    "SELECT files.id, positive FROM files LEFT JOIN prompts USING(id) WHERE name=?", (name,)
                ).fetchone()
                if row[1] is not None:
                    base.execute("INSERT INTO words(words, rowid, positive) VALUES('delete', ?, ?)", row)
                for table in ("prompts", "likeness", "files"):
                    base.execute(f"DELETE FROM {table} WHERE id=?", row[:1])

    def _read(self, base: sqlite3.Connection, name: str, real: str, state: tuple[int, int]) -> None:
        """`name` is how the file `real` is written in the index."""
        prompt, error, reason = None, "", ""
        try:
            if name != real:
                raise FewShotError("its name is no UTF-8: give it another one")
            prompt = find_prompt(self.folder / name)
        except FewShotError as refusal:
            error = _as_text(str(refusal))
        except NotFound as refusal:
            reason = _as_text(str(refusal))
        insert = "INSERT INTO files(name, size, time, error, reason) VALUES(?, ?, ?, ?, ?)"
        number = base.execute(insert, (name, *state, error, reason)).lastrowid
        if prompt is not None:
            lacking = {"negative_not_found": prompt.no_negative} if prompt.no_negative else {}
            parameters = json.dumps(dict(prompt.parameters) | {"tool": prompt.tool} | lacking)
            base.execute(
                "INSERT INTO prompts VALUES(?, ?, ?, ?)", (number, prompt.positive, prompt.negative, parameters)
            )
            base.execute("INSERT INTO words(rowid, positive) VALUES(?, ?)", (number, prompt.positive))

    # -------------------------------------------------------------------------------------------------- searching

    def search(
        self,
        words: str = "",
        clip: ImageTextEmbedder | None = None,
        like: str | Image.Image = "",
        count: int = 12,
        progress: Progress | None = None,
    ) -> list[GalleryEntry]:
        """The best `count` pictures with a prompt, one for each prompt.

        `words` are keywords, all of which the prompt holds; words in any form are found, and "red*" finds what starts
        so. With a `clip` pictures are ranked by their similarity to `like`, a text or a picture. With both, the two
        rankings of the matches are fused. With neither, the newest come first.

        Raises:
            FewShotError: nothing matches; the message says how many prompts there are.
        """
        if not 1 <= count <= 1000:
            raise FewShotError(f"{count} prompts were asked for; choose from 1 to 1000")
        with self._open() as base:
            query = query_of(words)
            ranking = self._by_words(base, query) if query else None
            if clip is not None and like and (ranking is None or len(ranking.numbers)):
                alike = self._by_similarity(base, clip, like, progress or NullProgress())
                ranking = alike if ranking is None else reciprocal_rank_fusion([ranking, alike.among(ranking.numbers)])
            entries = self._entries(base, self._newest(base) if ranking is None else ranking, count)
            if not entries:
                raise FewShotError(self._nothing(base, words))
        return entries

    def _nothing(self, base: sqlite3.Connection, words: str) -> str:
        total = base.execute("SELECT count(*) FROM prompts").fetchone()[0]
        if total:
            return f'no prompt among the {total} in {self.folder} matches "{words}"; use fewer or other words'
        unfound = self._unfound(base)
        return (
            f"no picture in {self.folder} holds a prompt that can be found; choose a folder of pictures made by "
            f"ComfyUI or A1111 that still have their metadata{f'. {unfound_text(unfound)}' if unfound else ''}"
        )

    @staticmethod
    def _by_words(base: sqlite3.Connection, query: str) -> Ranking:
        rows = base.execute("SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?", (query,))
        return Ranking.of(rows.fetchall())

    @staticmethod
    def _newest(base: sqlite3.Connection) -> Ranking:
        newest = base.execute("SELECT id FROM files JOIN prompts USING(id) ORDER BY time DESC").fetchall()
        return Ranking.of([(number, -position) for position, (number,) in enumerate(newest)])

    def _by_similarity(
        self, base: sqlite3.Connection, clip: ImageTextEmbedder, like: str | Image.Image, progress: Progress
    ) -> Ranking:
        self._embed(base, clip, progress)
        rows = base.execute(
            "SELECT id, vector FROM likeness WHERE model=? AND vector IS NOT NULL", (clip.model_id,)
        ).fetchall()
        if not rows:
            return Ranking.of([])
        vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float16).reshape(len(rows), -1).astype(np.float32)
        query = clip.texts([like]) if isinstance(like, str) else clip.images([like])
        return Ranking(np.array([row[0] for row in rows]), vectors @ query[0].float().numpy())

    def _embed(self, base: sqlite3.Connection, clip: ImageTextEmbedder, progress: Progress) -> None:
        """Embed each picture with a prompt once for each model; one with damaged pixels is recorded as such."""
        missing = base.execute(
            "SELECT id, name FROM prompts JOIN files USING(id) WHERE id NOT IN (SELECT id FROM likeness WHERE model=?)",
            (clip.model_id,),
        ).fetchall()
        for start in range(0, len(missing), BATCH):
            progress.check()
            numbers, pictures = [], []
            with base:
                for number, name in missing[start : start + BATCH]:
                    try:
                        pictures.append(decode(self.folder / name)[0])
                        numbers.append(number)
                    except FewShotError as error:
                        log.warning("%s is not compared by its look: %s", name, error)
                        base.execute("INSERT INTO likeness VALUES(?, ?, NULL)", (number, clip.model_id))
                if pictures:
                    vectors = clip.images(pictures).half().numpy()
                    values = [(n, clip.model_id, v.tobytes()) for n, v in zip(numbers, vectors, strict=True)]
                    base.executemany("INSERT INTO likeness VALUES(?, ?, ?)", values)
            progress.report(min(start + BATCH, len(missing)), len(missing), "comparing pictures")

    def _entries(self, base: sqlite3.Connection, ranking: Ranking, count: int) -> list[GalleryEntry]:
        """The best of `ranking`, one for each prompt."""
        entries: dict[str, GalleryEntry] = {}
        for position in ranking.order():
            row = base.execute(
                "SELECT name, positive, negative, parameters FROM prompts JOIN files USING(id) WHERE id=?",
                (int(ranking.numbers[position]),),
            ).fetchone()
            if row is not None:
                parameters, score = json.loads(row[3]), float(ranking.scores[position])
                entry = GalleryEntry(self.folder / row[0], row[1], row[2], parameters, score)
                entries.setdefault(entry.positive.lower(), entry)
            if len(entries) == count:
                break
        return list(entries.values())
