"""A ComfyUI server of our own: private folders, this pack as its only custom node, and gone when we are gone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import Stop

PATIENCE = 300.0  # seconds until the server must answer; the first start on a cold disk is slow
MODEL_FOLDERS = ("checkpoints", "clip", "diffusers", "embeddings", "loras", "vae")


def has_accelerator(python: Path) -> bool:
    """Whether torch sees one."""
    look = "import torch, sys; sys.exit(0 if torch.accelerator.is_available() else 3)"
    return subprocess.run([str(python), "-c", look], capture_output=True).returncode == 0


def free_port(wanted: int = 0) -> int:
    """`wanted` where it is free, else any."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return probe.getsockname()[1]
    raise Stop("No local port is free.")


def extra_paths(root: Path, models: dict[str, list[Path]]) -> str:
    """ComfyUI's extra_model_paths file (JSON is YAML): the pack's parent as custom nodes, and folders of models."""
    folders = {name: "\n".join(str(path) for path in paths) for name, paths in models.items() if paths}
    return json.dumps({"fewshot": {"custom_nodes": str(root.parent), **folders}}, indent=2)


@dataclass(frozen=True)
class Installation:
    """What a server runs: the Python interpreter, the folder of ComfyUI and the root of this pack."""

    python: Path
    comfyui: Path
    pack: Path


class ComfyServer:
    """`with ComfyServer(...) as server:` starts it, waits until it answers, and stops it in every case."""

    def __init__(
        self,
        installation: Installation,
        *,
        output: Path,
        base: Path | None = None,
        models: dict[str, list[Path]] | None = None,
        port: int = 0,
        cpu: bool = False,
    ):
        self.installation, self.output, self.cpu = installation, output, cpu
        self.base = base or installation.pack / ".comfyui" / "base"
        self.models = models or {}
        self.port = free_port(port)
        self.log = self.base / "server.log"
        self.process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        extra = self.base / "extra_model_paths.yaml"
        command = [str(self.installation.python), "-u", str(self.installation.comfyui / "main.py")]
        command += ["--listen", "127.0.0.1", "--port", str(self.port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--base-directory", str(self.base), "--output-directory", str(self.output)]
        command += ["--database-url", f"sqlite:///{(self.base / 'user' / 'comfyui.db').as_posix()}"]
        command += ["--extra-model-paths-config", str(extra)]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", self.installation.pack.name]
        return command + (["--cpu"] if self.cpu else [])

    def __enter__(self) -> ComfyServer:
        for name in ("input", "user", "temp", "custom_nodes", *(f"models/{folder}" for folder in MODEL_FOLDERS)):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)
        (self.base / "extra_model_paths.yaml").write_text(
            extra_paths(self.installation.pack, self.models), encoding="utf-8"
        )
        group: dict[str, Any] = {"start_new_session": True}
        if os.name == "nt":
            group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                **group,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _wait(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if not self.alive:
                raise Stop(f"ComfyUI ended while it started. The end of {self.log}:\n{self.last_words()}")
            with contextlib.suppress(OSError, urllib.error.URLError, ValueError):
                self.get("/system_stats", timeout=5)
                return self._check_pack()
            time.sleep(0.25)
        raise Stop(f"ComfyUI did not answer within {PATIENCE:.0f} s. The end of {self.log}:\n{self.last_words()}")

    def _check_pack(self) -> None:
        """ComfyUI goes on without a pack that fails to load, and says so only in its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        bad = [line for line in lines if "IMPORT FAILED" in line or "Cannot import" in line]
        if any(self.installation.pack.name in line for line in bad):
            raise Stop(f"ComfyUI could not load the pack. The end of {self.log}:\n{self.last_words(60)}")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def last_words(self, count: int = 30) -> str:
        """The end of the server's log, without colours."""
        text = re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))
        return "\n".join(text.splitlines()[-count:])

    def get(self, path: str, timeout: float = 60) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: dict, timeout: float = 60) -> tuple[int, Any]:
        """The status and the JSON answer; a refusal (4xx) is an answer too."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as refusal:
            status, content = refusal.code, refusal.read()
        try:
            return status, json.loads(content) if content else None
        except ValueError:
            return status, {"error": {"message": content.decode("utf-8", "replace")[:500]}}

    def stop(self) -> None:
        """End the server with all that it started: politely, then by force."""
        process, self.process = self.process, None
        if process is None:
            return
        for force in (False, True):
            if process.poll() is not None and os.name == "nt":
                return
            end_group(process, force)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
                if force or not group_lives(process):
                    return


def end_group(process: subprocess.Popen, force: bool) -> None:
    """Signal the whole process group that was started for `process`."""
    if os.name == "nt":
        command = ["taskkill", "/T", "/PID", str(process.pid)] + (["/F"] if force else [])
        subprocess.run(command, capture_output=True)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL if force else signal.SIGTERM)


def group_lives(process: subprocess.Popen) -> bool:
    if os.name == "nt":
        return process.poll() is None
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
