"""What an evaluation depends on besides its inputs: the models on the disk, and the report that it wrote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...vision.places import CAPTIONER_PLACES, HPS_FILES, REWARD_FILES, SEGMENTER_PLACES
from ..comfy import folders
from .validation_inputs import AUTO, NONE


def models_fingerprint(values: Mapping[str, Any]) -> str:
    """Changes whenever a model that these widgets may choose is added, removed or replaced: names, sizes and times."""
    kinds = ["clip_vision", "lpips"]
    kinds += ["rewards"] if values.get("preferences", AUTO) == AUTO else []
    kinds += SEGMENTER_PLACES if values.get("cut_out", NONE) != NONE else ()
    kinds += CAPTIONER_PLACES if values.get("asked", NONE) != NONE else ()
    states = []
    for root in folders.model_roots(*dict.fromkeys(kinds)):
        children = sorted(path for path in root.iterdir() if path.is_dir())
        for file in (*weights_in(root), *(file for folder in children for file in weights_in(folder))):
            state = file.stat()
            states.append(f"{file}:{state.st_size}:{state.st_mtime_ns}")
    return "\n".join(states)


def weights_in(folder: Path) -> list[Path]:
    """A model's files; of a published reward only the published file, since the others are converted from it."""
    published = [file for pattern in (HPS_FILES, REWARD_FILES[0]) for file in sorted(folder.glob(pattern))]
    return published or sorted(path for path in folder.glob("*") if path.is_file())


class Pages:
    """The page that each node wrote last. Like ComfyUI's cache of its outputs it lives as long as the process."""

    def __init__(self) -> None:
        self.last: dict[str, Path] = {}
        self.lost: Counter[str] = Counter()

    def wrote(self, node_id: str | None, page: Path) -> None:
        if node_id is not None:
            self.last[node_id] = page

    def losses(self, node_id: str | None) -> int:
        """How many of the node's pages were found deleted so far: it rises once for each, and stays when it is written
        anew, so that only the loss makes the node run."""
        if node_id is None:
            return 0
        page = self.last.get(node_id)
        if page is not None and not page.is_file():
            del self.last[node_id]
            self.lost[node_id] += 1
        return self.lost[node_id]


PAGES = Pages()
