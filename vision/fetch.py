"""Optional models downloaded from the Hugging Face hub on request: safetensors only, complete or not at all.

They are stored in `models/KIND/NAME`, where other packs look too. After an interrupted download the complete files are
kept for the next try.
"""

from __future__ import annotations

import fnmatch
import hashlib
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
from ..core.progress import NullProgress, Progress

log = logging.getLogger(__name__)
T = TypeVar("T")

CONFIG_FILES = ("*.json", "vocab.txt", "merges.txt", "*.model")
# In transformers' layout; other weight files are the same in formats that can run code, or other networks.
WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors")
# Disk space that stays free.
RESERVED_BYTES = 256 * 2**20
POLL = 0.5  # seconds between two progress reports
HUB_TIMEOUT = 20.0  # seconds for the hub's list of files


@dataclass(frozen=True)
class FetchableModel:
    """A model that can be downloaded: its subfolder of ComfyUI's models folder, and its use."""

    kind: str
    use: str


# By repository. Models published only as pickles (ImageReward, HPSv2) are not among them.
FETCHABLE_MODELS: Mapping[str, FetchableModel] = MappingProxyType(
    {
        "openai/clip-vit-large-patch14": FetchableModel("clip_vision", "CLIP-T and CLIP-I, validation, rewards"),
        "facebook/dino-vits16": FetchableModel("clip_vision", "DINO, the likeness of InstructBooth and DreamBooth"),
        "facebook/dinov2-small": FetchableModel("clip_vision", "DINOv2, likeness"),
        "yuvalkirstain/PickScore_v1": FetchableModel("rewards", "PickScore, what people prefer"),
        "IDEA-Research/grounding-dino-tiny": FetchableModel("grounding-dino", "finds phrases in pictures"),
        "facebook/sam-vit-base": FetchableModel("sams", "outlines in the boxes that were found"),
        "CIDAS/clipseg-rd64-refined": FetchableModel("clipseg", "coarse masks by phrase, alone"),
        "google/owlv2-base-patch16-ensemble": FetchableModel("owlv2", "finds phrases in pictures"),
        "florence-community/Florence-2-base": FetchableModel("florence2", "captions, and masks by phrase"),
        "Qwen/Qwen3-VL-2B-Instruct": FetchableModel("LLM", "captions that answer questions"),
        "Qwen/Qwen3-1.7B": FetchableModel("LLM", "writes captions anew"),
    }
)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `size` in bytes, 0 where the hub gives none."""

    name: str
    size: int


def model_folder(repository: str, root: Path) -> Path:
    """The folder of a repository's model below `root`, the folder of its kind."""
    return root / repository.rpartition("/")[2]


def is_complete(folder: Path) -> bool:
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


def fetch(repository: str, root: Path, progress: Progress | None = None, endpoint: str | None = None) -> Path:
    """The model's folder below `root`, downloaded unless it is complete already.

    Progress is in MB. A cancel returns at once; the file being downloaded still arrives, and is kept.

    Raises:
        FewShotError: the hub cannot be reached or refuses, the repository holds no safetensors in transformers' layout,
            or the disk has no room or no right. The message says which files can be put where by hand.
    """
    from filelock import FileLock, Timeout

    folder, progress = model_folder(repository, root), progress or NullProgress()
    if is_complete(folder):
        log.info("%s is there: %s", repository, folder)
        return folder
    waiting = root / ".fetching"  # its drafts are two levels down, where nothing searches for models
    try:
        waiting.mkdir(parents=True, exist_ok=True)
        if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
            raise FewShotError(f"{folder} is no folder, so no model can be put there; move it away")
        with FileLock(waiting / f"{folder.name}.lock", timeout=0):
            _download_all(repository, folder, waiting, progress, endpoint)
    except Timeout:
        raise FewShotError(f"{repository} is being fetched already; wait until that has ended") from None
    except OSError as error:
        raise _fetch_error(repository, folder, error) from error
    return folder


def _download_all(repository: str, folder: Path, waiting: Path, progress: Progress, endpoint: str | None) -> None:
    """Download all files into a draft folder of their revision, then move them to `folder`, config.json last."""
    report = partial(progress.report, 0, 1, f"asking for the files of {repository}")
    revision, files = _run_cancellable(partial(list_files, repository, endpoint), progress, report, repository, folder)
    draft = draft_folder(waiting, repository, revision)
    _remove_stale(draft)
    missing = [file for file in files if not _has_arrived(draft, file)]
    _check_disk_space(waiting, sum(file.size for file in missing))
    total = sum(file.size for file in files)
    arrived = total - sum(file.size for file in missing)
    for file in missing:
        report = partial(_report_progress, progress, repository, file, draft, arrived, total)
        work = partial(_download, repository, revision, file, draft, endpoint)
        _run_cancellable(work, progress, report, repository, folder)
        if not _has_arrived(draft, file):
            (draft / file.name).unlink(missing_ok=True)
            raise FewShotError(f"{repository}: {file.name} has not {file.size} bytes as the hub says; try again")
        arrived += file.size
    if not is_complete(draft):
        shutil.rmtree(draft)
        raise FewShotError(f"{repository}: what arrived are no whole safetensors; try again, or choose another model")
    shutil.rmtree(draft / ".cache", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):
        shutil.move(path, folder.resolve() / path.name)
    draft.rmdir()
    log.info("%s was fetched (%.0f MB, revision %s): %s", repository, total / 1e6, revision[:8], folder)


def list_files(repository: str, endpoint: str | None = None) -> tuple[str, list[HubFile]]:
    """The newest revision and its files to download, smallest first."""
    from huggingface_hub import HfApi

    info = HfApi(endpoint=endpoint).model_info(repository, files_metadata=True, timeout=HUB_TIMEOUT)
    siblings = [
        HubFile(sibling.rfilename, sibling.size or 0) for sibling in info.siblings or () if "/" not in sibling.rfilename
    ]
    wanted = [file for file in siblings if _wanted(file.name, (*CONFIG_FILES, *WEIGHTS))]
    if not any(_wanted(file.name, WEIGHTS) for file in wanted):
        held = ", ".join(sorted(f.name for f in siblings if f.name.endswith((".bin", ".pt", ".pth", ".safetensors"))))
        raise FewShotError(
            f"{repository} holds no model.safetensors (but {held or 'no weights'}), and no other format is fetched, "
            "since it can hide code; choose another model"
        )
    if all(file.name != "config.json" for file in wanted):
        raise FewShotError(f"{repository} holds no config.json, so it is no folder of transformers; choose another")
    return str(info.sha), sorted(wanted, key=lambda file: (file.size, file.name))


def _wanted(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def draft_folder(waiting: Path, repository: str, revision: str) -> Path:
    """Where the files of a revision arrive: a short name, as hubs before 1.0 lose files whose path has 256 characters.

    The hub's library adds 133 of them to this folder.
    """
    return waiting / f"{hashlib.sha256(repository.encode()).hexdigest()[:6]}-{revision[:8]}"


def _remove_stale(draft: Path) -> None:
    """Delete drafts of older revisions, and partial files, which the hub's library does not resume."""
    for old in draft.parent.glob(f"{draft.name.partition('-')[0]}-*"):
        if old != draft:
            shutil.rmtree(old)
    for half in draft.glob(".cache/huggingface/download/*.incomplete"):
        half.unlink()


def _check_disk_space(where: Path, size: int) -> None:
    free = shutil.disk_usage(where).free
    if free < size + RESERVED_BYTES:
        raise FewShotError(
            f"{size / 1e6:.0f} MB are to be fetched, {RESERVED_BYTES / 1e6:.0f} MB shall stay free, and "
            f"{free / 1e6:.0f} MB are free in {where}; make room there"
        )


def _download(repository: str, revision: str, file: HubFile, draft: Path, endpoint: str | None) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(repository, file.name, revision=revision, local_dir=draft, endpoint=endpoint)


class _WorkerThread(threading.Thread, Generic[T]):
    """Runs `work` in a daemon thread, so that a cancel need not wait for it."""

    def __init__(self, work: Callable[[], T]):
        super().__init__(daemon=True, name="fetch")
        self.work, self.result = work, list[T]()
        self.failed: Exception | None = None

    def run(self) -> None:
        try:
            self.result.append(self.work())
        except Exception as error:
            self.failed = error


def _run_cancellable(
    work: Callable[[], T], progress: Progress, report: Callable[[], None], repository: str, folder: Path
) -> T:
    """The result of `work`, cancellable by `progress`; errors of the hub or its transport become a `_fetch_error`."""
    thread = _WorkerThread(work)
    thread.start()
    while thread.is_alive():
        thread.join(POLL)
        progress.check()
        report()
    if isinstance(thread.failed, FewShotError):
        raise thread.failed
    if thread.failed is not None:
        raise _fetch_error(repository, folder, thread.failed) from thread.failed
    return thread.result[0]


def _fetch_error(repository: str, folder: Path, error: Exception) -> FewShotError:
    return FewShotError(
        f"{repository} could not be fetched ({type(error).__name__}: {_first_line(error)}). Try again: files that have "
        "arrived whole are kept. By hand: put config.json, model.safetensors and the other .json and .txt files of "
        f"huggingface.co/{repository} into {folder}"
    )


def _report_progress(progress: Progress, repository: str, file: HubFile, draft: Path, before: int, total: int) -> None:
    arrived = before + min(_partial_bytes(draft), file.size)
    text = f"{repository}: {file.name}, {arrived / 1e6:.0f} of {total / 1e6:.0f} MB"
    progress.report(arrived // 10**6, max(1, total // 10**6), text)


def _has_arrived(draft: Path, file: HubFile) -> bool:
    path = draft / file.name
    return path.is_file() and path.stat().st_size == (file.size or path.stat().st_size)


def _partial_bytes(draft: Path) -> int:
    """Bytes of the file being downloaded."""
    parts = sorted(draft.glob(".cache/huggingface/download/*.incomplete"), key=lambda path: path.stat().st_mtime)
    return parts[-1].stat().st_size if parts else 0


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
