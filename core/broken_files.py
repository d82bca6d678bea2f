"""What a file is that holds no weights that can be read: pointers, pages, archives, cut downloads, files misnamed."""

from __future__ import annotations

import zipfile
from pathlib import Path

HEAD = 512  # bytes that are looked at
TAR = slice(257, 262)
ARCHIVES = {
    b"\x1f\x8b": "gzip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!": "RAR", b"\xfd7zXZ": "xz", b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
AGAIN = "the download failed; download it again"


def describe_broken(path: Path, refused: bool = False) -> str:
    """One sentence that says what `path` is, which cannot be read as weights, and what to do.

    No library's words are passed on: theirs advise to switch off what keeps a file from running code. `refused` says
    that what was pickled could be read, and is no weights.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    known = _stand_in(head, size) or _misnamed(path, head, refused)
    return f"{path.name} {known or f'is cut short or damaged ({size} bytes): download it again'}"


def stand_in(path: Path) -> str | None:
    """What stands under the name of `path` in a file's place: a pointer, a page, an answer; None for a real file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        found = _stand_in(file.read(HEAD), path.stat().st_size, texts=path.suffix not in (".json", ".txt", ".model"))
    return f"{path.name} {found}" if found else None


def _stand_in(head: bytes, size: int, texts: bool = True) -> str | None:
    """`texts` says that a text is no content of such a file."""
    itself = "the weights" if texts else "the file itself"
    if not size:
        return f"is cut short: it is empty (0 bytes): {AGAIN}"
    if head.startswith(b"version https://git-lfs"):
        return (
            f"is a Git LFS pointer ({size} bytes), not {itself}: download the real file from its page, or run "
            "git lfs pull in its folder"
        )
    if head.startswith((b"/annex/objects/", b"../.git/annex", b".git/annex")):
        return f"is a git-annex pointer ({size} bytes), not {itself}: run git annex get on it"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return f"is a web page ({size} bytes), not {itself}: {AGAIN}"
    if texts and _is_text(head):
        words = " ".join(head.decode(errors="replace").split())[:60]
        return f"is a text ({size} bytes: {words!r}), not weights: {AGAIN}"
    return None


def _is_text(head: bytes) -> bool:
    try:
        return head.decode().isprintable() or all(c.isprintable() or c in "\r\n\t" for c in head.decode())
    except UnicodeDecodeError:
        return False


def _misnamed(path: Path, head: bytes, refused: bool) -> str | None:
    """What a file is by its first bytes, where that is something else than its name says."""
    for start, kind in ARCHIVES.items():
        if head.startswith(start):
            return f"is a {kind} archive: unpack it, and put the file from within in its place"
    if head[TAR] == b"ustar":
        return "is a tar archive: unpack it, and put the file from within in its place"
    if head.startswith(b"GGUF"):
        return "is a GGUF file, which is not read here: choose the same model as .safetensors"
    if head.startswith(b"\x89HDF"):
        return "is an HDF5 file of Keras, which is not read here: choose the same model as .safetensors"
    if head.startswith(PICTURES):
        return "is a picture, not weights: download the file of weights in its place"
    safetensors = path.suffix == ".safetensors"
    if len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return None if safetensors else "is a safetensors file by its content: rename it to end in .safetensors"
    if zipfile.is_zipfile(path):
        return _zipped(path, safetensors)
    if head.startswith(PICKLE) and (safetensors or refused):
        return _pickled(safetensors)
    return None


def _zipped(path: Path, safetensors: bool) -> str:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("constants.pkl") for name in names):
        return "is a TorchScript program, not weights alone, and is not run for safety: choose a .safetensors file"
    if any(name.endswith("data.pkl") for name in names):
        return _pickled(safetensors)
    first = names[0] if names else "nothing"
    return f"is a zip archive (with {first} in it): unpack it, and put the file of weights in its place"


def _pickled(safetensors: bool) -> str:
    if safetensors:
        return "is a pickled PyTorch file by its content, not a safetensors file: rename it to end in .ckpt or .pt"
    return "holds more than weights, and is not opened for safety: choose a .safetensors file"
