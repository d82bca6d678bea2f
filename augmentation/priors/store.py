"""Prior pictures on disk: files first, then the manifest that lists them, so that interrupted work resumes."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ...core.atomic import write_whole
from ...core.images import open_picture, pixel_key, write_png
from ...core.text.embeddings import unweighted
from ...core.values import Picture, Sample
from .filter import PriorCandidate, pixel_std

log = logging.getLogger(__name__)
MANIFEST = "manifest.jsonl"


class PriorStore:
    """The prior pictures of one key on disk: `rows` by their index, only those whose file is intact."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[int, dict] = {}
        for line in self._lines():
            try:
                row = json.loads(line)
                data = (folder / row["file"]).read_bytes()
                if hashlib.sha256(data).hexdigest() != row["sha256"]:
                    raise ValueError(f"{row['file']} is not the file that was written")
                if "spread" not in row:
                    with open_picture(io.BytesIO(data)) as picture:
                        row["spread"] = pixel_std(picture)
                self.rows[int(row["index"])] = row
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("priors: an entry of %s is not usable and is made again (%s)", folder / MANIFEST, error)

    def _lines(self) -> list[str]:
        path = self.folder / MANIFEST
        return path.read_text("utf-8").splitlines() if path.is_file() else []

    def missing(self, count: int) -> list[int]:
        return [index for index in range(count) if index not in self.rows]

    def candidates(self, count: int) -> list[PriorCandidate]:
        return [
            PriorCandidate(index, self.folder / row["file"], row["spread"], row.get("reason", ""))
            for index, row in sorted(self.rows.items())
            if index < count
        ]

    def row(self, index: int) -> tuple[Picture, str]:
        """The picture at `index` and its prompt."""
        row = self.rows[index]
        return Picture(self.folder / row["file"], row["key"], row["width"], row["height"]), row["prompt"]

    def add(self, made: list[tuple[int, str, int, Image.Image, str]]) -> None:
        """Keep pictures (index, prompt, seed, pixels, why it is unusable or ""): files, then the manifest of them."""
        for index, prompt, seed, pixels, reason in made:
            path = write_png(pixels, self.folder / f"{index:05d}.png")
            self.rows[index] = {
                "index": index, "file": path.name, "prompt": prompt, "seed": seed, "key": pixel_key(pixels),
                "width": pixels.width, "height": pixels.height, "spread": round(pixel_std(pixels), 2),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            } | ({"reason": reason} if reason else {})  # fmt: skip
        lines = [json.dumps(self.rows[index], ensure_ascii=False) for index in sorted(self.rows)]
        write_whole(self.folder / MANIFEST, ("\n".join(lines) + "\n").encode())

    def samples(self, indices: Sequence[int], concept: int) -> list[Sample]:
        rows = [self.row(index) for index in indices]
        return [
            Sample(image=picture, caption=unweighted(prompt), role="prior", concept=concept) for picture, prompt in rows
        ]
