"""Optional models brought from the Hugging Face hub, when a person asks for one: safetensors only, whole or not at all.

What is fetched lies in `models/KIND/NAME`, where other packs look too. A cut download goes on where it stopped.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .errors import FewShotError
from .watching import Silent, Watcher

log = logging.getLogger(__name__)

PLAIN = ("*.json", "vocab.txt", "merges.txt", "*.model")
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
"""of transformers' layout; other weights beside them are the same in formats that can hide code, or other networks"""
SPARE = 256 * 2**20
"""bytes of the disk that stay free"""
POLL = 0.5  # seconds between two looks at what has arrived


@dataclass(frozen=True)
class Known:
    """A model that can be fetched: its folder of ComfyUI's models, and what it is for."""

    kind: str
    use: str


KNOWN: Mapping[str, Known] = MappingProxyType(
    {
        "openai/clip-vit-large-patch14": Known("clip_vision", "CLIP-T and CLIP-I, validation, rewards"),
        "facebook/dino-vits16": Known("clip_vision", "DINO, the likeness of InstructBooth and DreamBooth"),
        "facebook/dinov2-small": Known("clip_vision", "DINOv2, likeness"),
        "yuvalkirstain/PickScore_v1": Known("rewards", "PickScore, what people prefer"),
        "IDEA-Research/grounding-dino-tiny": Known("grounding-dino", "finds phrases in pictures"),
        "facebook/sam-vit-base": Known("sams", "outlines in the boxes that were found"),
        "CIDAS/clipseg-rd64-refined": Known("clipseg", "coarse masks by phrase, alone"),
        "google/owlv2-base-patch16-ensemble": Known("owlv2", "finds phrases in pictures"),
        "florence-community/Florence-2-base": Known("florence2", "captions, and masks by phrase"),
        "Qwen/Qwen3-VL-2B-Instruct": Known("LLM", "captions that answer questions"),
        "Qwen/Qwen3-1.7B": Known("LLM", "writes captions anew"),
    }
)
"""By repository. Models of which only pickles are published (ImageReward, HPSv2) are not among them."""


@dataclass(frozen=True)
class File:
    name: str
    size: int  # bytes


def place_of(repository: str, root: Path) -> Path:
    """Where a repository's model lies below `root`, its kind's folder."""
    return root / repository.rpartition("/")[2]


def fetch(repository: str, root: Path, watcher: Watcher | None = None, endpoint: str | None = None) -> Path:
    """The model's folder below `root`, fetched unless it is there.

    Progress is in MB. A cancel returns at once; the file that is under way is kept as far as it came.

    Raises:
        FewShotError: the hub cannot be reached or refuses, the repository holds no safetensors in transformers' layout,
            or the disk has no room. The message says which files can be put where by hand.
    """
    folder, watcher = place_of(repository, root), watcher or Silent()
    if (folder / "config.json").is_file():
        log.info("%s is there: %s", repository, folder)
        return folder
    try:
        revision, files = listed(repository, endpoint)
    except FewShotError:
        raise
    except Exception as error:  # the hub's own, or its transport's
        raise _by_hand(repository, folder, error) from error
    total, arrived = sum(file.size for file in files), 0
    _check_room(root, total)
    draft = root / ".fetching" / folder.name  # two levels down, where nothing looks for models
    for file in files:
        bring = _Bringing(repository, revision, file, draft, endpoint)
        bring.start()
        while bring.is_alive():
            bring.join(POLL)
            watcher.check()
            _tell(watcher, repository, file, arrived + min(_arrived(draft), file.size), total)
        if bring.failed is not None:
            raise _by_hand(repository, folder, bring.failed) from bring.failed
        _check_size(repository, file, draft)
        arrived += file.size
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    os.replace(draft, folder)
    log.info("%s was fetched (%.0f MB, revision %s): %s", repository, total / 1e6, revision[:8], folder)
    return folder


def listed(repository: str, endpoint: str | None = None) -> tuple[str, list[File]]:
    """The revision that is newest now, and the files of it that are wanted, small ones first."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True)
    there = [File(one.rfilename, one.size or 0) for one in info.siblings or () if "/" not in one.rfilename]
    found = [file for file in there if _wanted(file.name, (*PLAIN, *WEIGHTS))]
    if not any(_wanted(file.name, WEIGHTS) for file in found):
        held = ", ".join(sorted(f.name for f in there if f.name.endswith((".bin", ".pt", ".pth", ".safetensors"))))
        raise FewShotError(
            f"{repository} holds no model.safetensors (but {held or 'no weights'}), and no other format is fetched, "
            "since it can hide code; choose another model"
        )
    if all(file.name != "config.json" for file in found):
        raise FewShotError(f"{repository} holds no config.json, so it is no folder of transformers; choose another")
    return str(info.sha), sorted(found, key=lambda file: (file.size, file.name))


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_room(root: Path, size: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < size + SPARE:
        raise FewShotError(
            f"{size / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free in {root}; make room there"
        )


class _Bringing(threading.Thread):
    """One file into `draft`, in a thread of its own, so that a cancel need not wait for gigabytes."""

    def __init__(self, repository: str, revision: str, file: File, draft: Path, endpoint: str | None):
        super().__init__(daemon=True, name=f"fetch {file.name}")
        self.what = (repository, file.name)
        self.where: dict[str, Any] = dict(revision=revision, local_dir=draft, endpoint=endpoint)
        self.failed: Exception | None = None

    def run(self) -> None:
        from huggingface_hub import hf_hub_download

        try:
            hf_hub_download(*self.what, **self.where)
        except Exception as error:
            self.failed = error


def _by_hand(repository: str, folder: Path, error: Exception) -> FewShotError:
    return FewShotError(
        f"{repository} could not be fetched ({type(error).__name__}: {_first_line(error)}). Try again: what has "
        "arrived is kept. By hand: put config.json, model.safetensors and the other .json and .txt files of "
        f"huggingface.co/{repository} into {folder}"
    )


def _tell(watcher: Watcher, repository: str, file: File, arrived: int, total: int) -> None:
    text = f"{repository}: {file.name}, {arrived / 1e6:.0f} of {total / 1e6:.0f} MB"
    watcher.progress(arrived // 10**6, max(1, total // 10**6), text)


def _check_size(repository: str, file: File, draft: Path) -> None:
    size = (draft / file.name).stat().st_size
    if file.size and size != file.size:
        (draft / file.name).unlink()
        raise FewShotError(f"{repository}: {file.name} has {size} bytes instead of {file.size}; try again")


def _arrived(draft: Path) -> int:
    """Bytes of the file that is under way."""
    parts: list[Any] = sorted(draft.glob(".cache/huggingface/download/*.incomplete"), key=lambda p: p.stat().st_mtime)
    return parts[-1].stat().st_size if parts else 0


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
