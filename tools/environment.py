"""The virtual environments of run.py. Each step leaves a stamp with its pins and is repeated only when they change.

An interrupted step leaves no stamp and is done again; pip then finds what it already has.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from .console import Stop, say

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
PYTHONS = ((3, 10), (3, 14))  # the first and the last Python that these have wheels for
# Transitive packages that must be as old as the bounds are: what those releases themselves ask for.
LOWER_COMPANIONS = ("tokenizers==0.22.0", "huggingface-hub==0.34.0")


def key_of(*parts: object) -> str:
    """What a step's result depends on, as one word."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def once(stamps: Path, name: str, key: str, action: Callable[[], None], announcement: str) -> bool:
    """Run `action` unless the stamp `name` holds `key`. The stamp is written after the action has ended well."""
    stamp = stamps / f"{name}.stamp"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == key:
        return False
    say(announcement)
    stamp.unlink(missing_ok=True)
    action()
    stamps.mkdir(parents=True, exist_ok=True)
    draft = stamp.with_suffix(".draft")
    draft.write_text(key, encoding="utf-8")
    os.replace(draft, stamp)
    return True


def torch_download() -> str:
    """About how much the three torch packages fetch on this system."""
    return "2.6 GB" if sys.platform == "linux" and platform.machine() in ("x86_64", "AMD64") else "200 MB"


class Environment:
    """A virtual environment in `folder`, and the steps that fill it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stamps = folder / "stamps"

    @property
    def python(self) -> Path:
        return self.script("python")

    def script(self, name: str) -> Path:
        """An executable of the environment: python, pytest, ruff, ..."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin") / (name + (".exe" if os.name == "nt" else ""))

    @property
    def site_packages(self) -> Path:
        if os.name == "nt":
            return self.folder / "Lib" / "site-packages"
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"

    def make(self) -> None:
        """Make the folder. It holds absolute paths, so a moved repository gets a new one."""
        if not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
            raise Stop(
                f"This is Python {platform.python_version()}, and torch 2.11.0 is made for 3.10 to 3.14. "
                "Start run.py with one of those, for instance: python3.12 run.py demo"
            )
        key = key_of(str(self.folder), sys.version_info[:2], platform.machine())
        once(self.stamps, "venv", key, self._make, f"Making a Python environment in {self.folder}")

    def _make(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        run = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)], capture_output=True, text=True, errors="replace"
        )
        if run.returncode:
            raise Stop(
                f"No environment could be made in {self.folder}:\n{(run.stdout + run.stderr).strip()}\n"
                "On Debian and Ubuntu the package python3-venv may be missing: sudo apt install python3-venv"
            )
        (self.folder / ".gitignore").write_text("*\n", encoding="utf-8")

    def pip(self, *arguments: str) -> None:
        """Run pip; the torch set is held as it is by a constraint."""
        constraints = self.folder / "held.txt"
        constraints.write_text("\n".join(TORCH) + "\n", encoding="utf-8")
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        common = ["--no-input", "--disable-pip-version-check", "--no-warn-script-location", "-c", str(constraints)]
        done = subprocess.run([str(self.python), "-m", "pip", "install", *quiet, *common, *arguments])
        if done.returncode:
            raise Stop(
                f"pip ended with {done.returncode} on: pip install {' '.join(arguments)}\n"
                "Its own words are above. When the network was the cause, the same command goes on where it stopped."
            )

    def install_torch(self) -> None:
        once(
            self.stamps,
            "torch",
            key_of(TORCH),
            lambda: self.pip(*TORCH),
            f"Installing {', '.join(TORCH)}: about {torch_download()} to download, three times that on disk",
        )

    def install_comfyui(self, comfyui: Path) -> None:
        """ComfyUI's own requirements; they name torch without a version, which the constraint answers."""
        wanted = comfyui / "requirements.txt"
        once(
            self.stamps,
            "comfyui",
            key_of(wanted.read_text(encoding="utf-8")),
            lambda: self.pip("-r", str(wanted)),
            f"Installing what ComfyUI asks for in {wanted}: about 350 MB to download",
        )

    def install_pack(self, root: Path, extra: str = "") -> None:
        """This pack under the name comfyui_fewshot, in place, with its dependencies."""
        target = f"{root}[{extra}]" if extra else str(root)
        size = "130 MB" if extra else "40 MB"
        once(
            self.stamps,
            f"pack-{extra or 'plain'}",
            key_of(str(root), (root / "pyproject.toml").read_text(encoding="utf-8")),
            lambda: self.pip("-e", target),
            f"Installing the pack and its requirements{' for tests' if extra else ''}: about {size} to download",
        )


def lower_bounds(requirements: Iterable[str]) -> list[str]:
    """ "peft>=0.13.0" becomes "peft==0.13.0": the oldest release that is promised to work."""
    pins = []
    for line in requirements:
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, bound, version = line.partition(">=")
        if not bound:
            raise Stop(f"requirements.txt: {line!r} declares no lower bound; write name>=version")
        pins.append(f"{name.strip()}=={version.strip()}")
    return pins


def lower_environment(folder: Path, main: Environment, root: Path) -> Environment:
    """An environment with the oldest promised releases over the main one's packages (torch above all).

    A .pth file adds the main site-packages behind its own, so what is not pinned is shared and not installed twice.
    """
    lower = Environment(folder)
    lower.make()
    pins = lower_bounds((root / "requirements.txt").read_text(encoding="utf-8").splitlines())
    pins = [pin for pin in pins if not _compiled_too_old(pin)] + list(LOWER_COMPANIONS)

    def fill() -> None:
        shared = lower.site_packages / "shared.pth"
        shared.unlink(missing_ok=True)
        lower.pip("--no-deps", *pins)
        # addsitedir also reads the main environment's own .pth files, among them the one that finds this pack.
        shared.write_text(f"import site; site.addsitedir({str(main.site_packages)!r})\n", encoding="utf-8")

    once(
        lower.stamps,
        "lower",
        key_of(pins, str(main.site_packages)),
        fill,
        f"Installing the oldest promised releases beside it, in {folder}: about 40 MB to download",
    )
    return lower


def _compiled_too_old(pin: str) -> bool:
    """Whether a compiled package's oldest promised release has no wheel for this Python; the main one is then used."""
    return sys.version_info >= (3, 13) and pin.split("==")[0] in ("numpy", "matplotlib", "pillow")
