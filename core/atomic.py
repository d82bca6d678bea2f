"""Files that are either whole or not there, and tensors with a checksum.

A file is written under a draft's name beside its place, brought to the disk, and only then renamed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .errors import FewShotError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside `path`, which takes its place when the block ends well, and is deleted when it does not."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.draft")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> Path:
    """Write `data` to `path` in one piece, replacing what was there only when all of it is on the disk.

    Folders above it are made.

    Raises:
        FewShotError: the disk is full or the folder cannot be written; nothing half-written stays behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft, open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise FewShotError(
            f"could not write {path} ({len(data) / 1e6:.1f} MB): {error.strerror or error}. "
            + remedy(
                error,
                "Free space on the disk or choose a folder that can be written, then start again: finished "
                "work is kept.",
            )
        ) from error
    return path


def make_folder(path: Path) -> Path:
    """Make the folder and those above it.

    Raises:
        FewShotError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FewShotError(
            f"could not make the folder {path}: {error.strerror or error}. "
            + remedy(error, "Choose one that can be written.")
        ) from error
    return path


def remedy(error: OSError, otherwise: str) -> str:
    """What to do about an error of writing: a shorter name where that is the cause."""
    if error.errno == errno.ENAMETOOLONG:
        return "Choose a shorter name: a file's name may take 255 bytes, and a character outside of English up to four."
    return otherwise


def shortened(name: str, most: int) -> str:
    """The beginning of a name that takes at most `most` bytes in a file system, of whole characters."""
    return name.encode()[:most].decode(errors="ignore")


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(file: Path, place: Path) -> Path:
    """`place` with the content of `file`: linked where the disk can link, else copied; one that is there stays.

    Raises:
        FewShotError: it cannot be written. Nothing half-written is left.
    """
    if place.exists():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file, place)
        except OSError:  # on another disk, or one that cannot link
            with replacing(place) as draft:
                shutil.copyfile(file, draft)
    except OSError as error:
        raise FewShotError(f"{place} cannot be written: {error.strerror or error}; free some space or rights") from None
    return place


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file in one piece, with a checksum of its tensors in the metadata."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    return write_whole(path, save(plain, metadata={**metadata, "checksum": _checksum(plain)}))


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What `write_tensors` wrote.

    Raises:
        FewShotError: the file is torn, altered or of another kind.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise FewShotError(f"cannot read {path}: {error}. Delete it to go on without it.") from error
    if metadata.get("checksum") != _checksum(tensors):
        raise FewShotError(f"{path} was altered after it was written. Delete it to go on without it.")
    return tensors, metadata


def _checksum(tensors: Mapping[str, torch.Tensor]) -> str:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"crc32:{value:08x}"
