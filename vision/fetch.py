"""Optional models brought from the Hugging Face hub, when a person asks for one: safetensors only, whole or not at all.

What is fetched lies in `models/KIND/NAME`, where other packs look too. Of a download that was cut, the files that have
arrived whole are kept for the next try.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar

from ..core.errors import FewShotError
from ..core.progress import Silent, Watcher

log = logging.getLogger(__name__)
T = TypeVar("T")

PLAIN = ("*.json", "vocab.txt", "merges.txt", "*.model")
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
"""of transformers' layout; other weights beside them are the same in formats that can hide code, or other networks"""
SPARE = 256 * 2**20
"""bytes of the disk that stay free"""
POLL = 0.5  # seconds between two looks at what has arrived
PATIENCE = 20.0  # seconds for the hub's list of files


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
    size: int  # bytes; 0 where the hub does not tell


def place_of(repository: str, root: Path) -> Path:
    """Where a repository's model lies below `root`, its kind's folder."""
    return root / repository.rpartition("/")[2]


def is_whole(folder: Path) -> bool:
    """Whether a folder holds config.json and all its weights, each as long as its header says."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / f"{WEIGHTS[0]}.index.json"
    try:
        parts = set(json.loads(index.read_text("utf-8"))["weight_map"].values()) if index.is_file() else {WEIGHTS[0]}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return bool(parts) and all(_readable(folder / str(part)) for part in parts)


def _readable(file: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "numpy"):
            return True
    except (OSError, SafetensorError):
        return False


def fetch(repository: str, root: Path, watcher: Watcher | None = None, endpoint: str | None = None) -> Path:
    """The model's folder below `root`, fetched unless it is there whole.

    Progress is in MB. A cancel returns at once; the one file that is under way still arrives, and is kept.

    Raises:
        FewShotError: the hub cannot be reached or refuses, the repository holds no safetensors in transformers' layout,
            or the disk has no room or no right. The message says which files can be put where by hand.
    """
    from filelock import FileLock, Timeout

    folder, watcher = place_of(repository, root), watcher or Silent()
    if is_whole(folder):
        log.info("%s is there: %s", repository, folder)
        return folder
    waiting = root / ".fetching"  # what lies there is three levels down, where nothing looks for models
    try:
        waiting.mkdir(parents=True, exist_ok=True)
        if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
            raise FewShotError(f"{folder} is no folder, so no model can be put there; move it away")
        with FileLock(waiting / f"{folder.name}.lock", timeout=0):
            _bring_all(repository, folder, waiting, watcher, endpoint)
    except Timeout:
        raise FewShotError(f"{repository} is being fetched already; wait until that has ended") from None
    except OSError as error:
        raise _by_hand(repository, folder, error) from error
    return folder


def _bring_all(repository: str, folder: Path, waiting: Path, watcher: Watcher, endpoint: str | None) -> None:
    """All files into a draft of their revision, and then into the folder, config.json last."""
    asking = partial(watcher.progress, 0, 1, f"asking for the files of {repository}")
    revision, files = _apart(partial(listed, repository, endpoint), watcher, asking, repository, folder)
    draft = waiting / folder.name / revision
    draft.parent.mkdir(exist_ok=True)
    _tidy(draft)
    missing = [file for file in files if not _has_arrived(draft, file)]
    _check_room(waiting, sum(file.size for file in missing))
    total = sum(file.size for file in files)
    arrived = total - sum(file.size for file in missing)
    for file in missing:
        tell = partial(_tell, watcher, repository, file, draft, arrived, total)
        work = partial(_download, repository, revision, file, draft, endpoint)
        _apart(work, watcher, tell, repository, folder)
        if not _has_arrived(draft, file):
            (draft / file.name).unlink(missing_ok=True)
            raise FewShotError(f"{repository}: {file.name} has not {file.size} bytes as the hub says; try again")
        arrived += file.size
    if not is_whole(draft):
        shutil.rmtree(draft)
        raise FewShotError(f"{repository}: what arrived are no whole safetensors; try again, or choose another model")
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):
        shutil.move(path, folder.resolve() / path.name)
    draft.rmdir()
    draft.parent.rmdir()
    log.info("%s was fetched (%.0f MB, revision %s): %s", repository, total / 1e6, revision[:8], folder)


def listed(repository: str, endpoint: str | None = None) -> tuple[str, list[File]]:
    """The revision that is newest now, and the files of it that are wanted, small ones first."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=PATIENCE)
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


def _tidy(draft: Path) -> None:
    """Drafts of older revisions, and halves of files, with which the hub's library does not go on."""
    for old in draft.parent.iterdir():
        if old != draft:
            shutil.rmtree(old)
    for half in draft.glob(".cache/huggingface/download/*.incomplete"):
        half.unlink()


def _check_room(where: Path, size: int) -> None:
    free = shutil.disk_usage(where).free
    if free < size + SPARE:
        raise FewShotError(
            f"{size / 1e6:.0f} MB are to be fetched, {SPARE / 1e6:.0f} MB shall stay free, and {free / 1e6:.0f} MB are "
            f"free in {where}; make room there"
        )


def _download(repository: str, revision: str, file: File, draft: Path, endpoint: str | None) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(repository, file.name, revision=revision, local_dir=draft, endpoint=endpoint)


class _Apart(threading.Thread, Generic[T]):
    """Work in a thread of its own, so that a cancel need not wait for it."""

    def __init__(self, work: Callable[[], T]):
        super().__init__(daemon=True, name="fetch")
        self.work, self.result = work, list[T]()
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            self.result.append(self.work())
        except Exception as error:
            self.failed = error


def _apart(work: Callable[[], T], watcher: Watcher, tell: Callable[[], None], repository: str, folder: Path) -> T:
    """What `work` gives, while `watcher` may cancel; what the hub or its transport raises says what can be done."""
    thread = _Apart(work)
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        watcher.check()
        tell()
    if isinstance(thread.failed, FewShotError):
        raise thread.failed
    if thread.failed is not None:
        raise _by_hand(repository, folder, thread.failed) from thread.failed
    return thread.result[0]


def _by_hand(repository: str, folder: Path, error: Exception) -> FewShotError:
    return FewShotError(
        f"{repository} could not be fetched ({type(error).__name__}: {_first_line(error)}). Try again: files that have "
        "arrived whole are kept. By hand: put config.json, model.safetensors and the other .json and .txt files of "
        f"huggingface.co/{repository} into {folder}"
    )


def _tell(watcher: Watcher, repository: str, file: File, draft: Path, before: int, total: int) -> None:
    arrived = before + min(_under_way(draft), file.size)
    text = f"{repository}: {file.name}, {arrived / 1e6:.0f} of {total / 1e6:.0f} MB"
    watcher.progress(arrived // 10**6, max(1, total // 10**6), text)


def _has_arrived(draft: Path, file: File) -> bool:
    path = draft / file.name
    return path.is_file() and path.stat().st_size == (file.size or path.stat().st_size)


def _under_way(draft: Path) -> int:
    """Bytes of the file that is under way."""
    parts = sorted(draft.glob(".cache/huggingface/download/*.incomplete"), key=lambda path: path.stat().st_mtime)
    return parts[-1].stat().st_size if parts else 0


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
