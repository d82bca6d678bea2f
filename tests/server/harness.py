"""A real ComfyUI in a process of its own, and the little of its protocol that the tests speak."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import torch

from comfyui_fewshot.core.values import Adapter, LowRank
from comfyui_fewshot.models.adapters.formats import write_lora
from comfyui_fewshot.pocket.models.likeness import build_clip, processor
from comfyui_fewshot.pocket.world.words import build

ROOT = Path(__file__).resolve().parents[2]
PACK = "comfyui-fewshot"
PROBE = "probe"
PATIENCE = 600.0  # seconds for a start or a prompt on a machine that is busy with other things
LEFT_OUT = {"tests", "output", "dist", "build", "shared"}


def link_pack(custom_nodes: Path, weights: Path) -> Path:
    """The pack in `custom_nodes`, by links, with `weights` in the place of the pocket's own."""
    pack = custom_nodes / PACK
    pack.mkdir(parents=True)
    for entry in ROOT.iterdir():
        if not entry.name.startswith(".") and entry.name not in LEFT_OUT | {"pocket"}:
            (pack / entry.name).symlink_to(entry)
    (pack / "pocket").mkdir()
    for entry in (ROOT / "pocket").iterdir():
        if entry.name != "weights":
            (pack / "pocket" / entry.name).symlink_to(entry)
    (pack / "pocket" / "weights").symlink_to(weights)
    (custom_nodes / PROBE).symlink_to(ROOT / "tests" / "server" / "probe")
    return pack


def prepare(base: Path) -> None:
    """A base directory with the pack, pocket models with random weights, and folders of pictures."""
    from comfyui_fewshot.benchmarks.augment.captions import write_gallery
    from comfyui_fewshot.pocket.assemble import random_folder
    from comfyui_fewshot.pocket.world.pictures import write_relation, write_subject
    from comfyui_fewshot.tests.vision import tiny

    weights = random_folder(base / "models" / "diffusers" / "pocket")
    tiny.clipseg(weights / "clipseg")
    link_pack(base / "custom_nodes", weights)
    for folder in ("checkpoints", "loras"):
        (base / "models" / folder).mkdir(parents=True)
    write_lora(stand_in(), base / "models" / "loras" / "stand_in.safetensors")
    write_subject(base / "input" / "subject", "cat_patched", 2)
    write_relation(base / "input" / "relation", "dream")
    write_gallery(base / "input" / "gallery", 2)
    (base / "input" / "empty").mkdir()
    (base / "input" / "broken").mkdir()
    (base / "input" / "broken" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


@contextlib.contextmanager
def random_clip(base: Path, name: str) -> Iterator[str]:
    """A CLIP of the pocket's shape with random weights in models/clip_vision, for as long as it is needed.

    The weights are always the same ones, whatever numbers other tests have drawn before.
    """
    folder = base / "models" / "clip_vision" / name
    folder.mkdir(parents=True)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build_clip(build(folder)).save_pretrained(folder)
        processor().save_pretrained(folder)
        yield name
    finally:
        shutil.rmtree(folder)


def stand_in() -> Adapter:
    """A LoRA of one layer of the pocket, for workflows that read what another run has trained."""
    width = 192  # of the pocket's text encoder and of its inner layers
    pair = LowRank(torch.ones(width, 1) * 0.1, torch.ones(1, width) * 0.1, 1.0)
    return Adapter({"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v": pair}, "sd1", "sks cat")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Outcome:
    """What became of a prompt: every message about it, and its entry in the history."""

    prompt_id: str
    messages: list[tuple[str, dict[str, Any]]]
    history: dict[str, Any]

    @property
    def status(self) -> str:
        return self.history["status"]["status_str"]

    @property
    def error(self) -> dict[str, Any]:
        """The error that stopped it: node_id, node_type, exception_type, exception_message."""
        return next(data for kind, data in self.messages if kind == "execution_error")

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [data for name, data in self.messages if name == kind]

    def outputs(self, node: str) -> dict[str, Any]:
        return self.history["outputs"][node]


@dataclass
class Server:
    """`with Server(comfyui, base) as server:` is a running ComfyUI on the CPU."""

    comfyui: Path
    base: Path
    output: Path | None = None
    preexec: Callable[[], None] | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.output = self.output or self.base / "output"
        self.log_path = self.base / f"server-{self.port}.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Server:
        command = [sys.executable, "-u", str(self.comfyui / "main.py"), "--cpu", "--port", str(self.port)]
        command += ["--base-directory", str(self.base), "--output-directory", str(self.output)]
        command += ["--disable-auto-launch", "--disable-api-nodes", "--cache-lru", "50"]
        command += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", PACK, PROBE]
        command += ["--database-url", "sqlite:///:memory:"]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, preexec_fn=self.preexec
            )
        try:
            self._until_it_answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()

    def _until_it_answers(self) -> None:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                return
            time.sleep(0.2)
        raise RuntimeError(f"ComfyUI did not start:\n{self.log[-4000:]}")

    # --------------------------------------------------------------------------------------------------- requests

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return json.loads(answer.read())

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return answer.read()

    def post(self, path: str, content: Mapping[str, Any]) -> tuple[int, Any]:
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def refused(self, graph: Mapping[str, Any]) -> dict[str, Any]:
        """The 400 answer to a graph that must not be taken."""
        status, answer = self.post("/prompt", {"prompt": graph})
        assert status == 400, (status, answer)
        return answer

    # ----------------------------------------------------------------------------------------------------- prompts

    def run(self, graph: Mapping[str, Any], on_message: Callable[[str, Any], None] | None = None) -> Outcome:
        """Queue a graph and follow it to its end, whatever the end is."""
        return asyncio.run(asyncio.wait_for(self._follow(graph, on_message), PATIENCE))

    def cancelled(self, graph: Mapping[str, Any], when: Callable[[str, Any], bool]) -> Outcome:
        """A run in which Cancel is pressed once, at the first message that `when` picks."""
        pressed = threading.Event()

        def listen(kind: str, data: Any) -> None:
            if not pressed.is_set() and when(kind, data):
                pressed.set()
                self.post("/interrupt", {})

        outcome = self.run(graph, listen)
        assert pressed.is_set(), "the run ended before it could be cancelled"
        return outcome

    def succeed(self, graph: Mapping[str, Any], on_message: Callable[[str, Any], None] | None = None) -> Outcome:
        outcome = self.run(graph, on_message)
        assert outcome.status == "success", outcome.messages[-1]
        return outcome

    async def _follow(self, graph: Mapping[str, Any], on_message: Callable[[str, Any], None] | None) -> Outcome:
        client = uuid.uuid4().hex
        messages: list[tuple[str, dict[str, Any]]] = []
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId={client}") as ws:
            status, answer = await asyncio.to_thread(self.post, "/prompt", {"prompt": graph, "client_id": client})
            assert status == 200 and not answer["node_errors"], answer
            prompt_id = answer["prompt_id"]
            async for message in ws:
                if message.type == aiohttp.WSMsgType.BINARY:
                    kind, data = "binary", {"event": int.from_bytes(message.data[:4], "big"), "data": message.data[4:]}
                else:
                    content = json.loads(message.data)
                    kind, data = content["type"], content.get("data") or {}
                    if data.get("prompt_id") not in (None, prompt_id):
                        continue
                messages.append((kind, data))
                if on_message is not None:
                    await asyncio.to_thread(on_message, kind, data)
                if kind in ("execution_success", "execution_error", "execution_interrupted"):
                    break
        return Outcome(prompt_id, messages, await asyncio.to_thread(self._history, prompt_id))

    def _history(self, prompt_id: str) -> dict[str, Any]:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            if found := self.get(f"/history/{prompt_id}").get(prompt_id):
                return found
            time.sleep(0.05)
        raise RuntimeError(f"prompt {prompt_id} is not in the history")

    def picture(self, image: Mapping[str, str]) -> Any:
        """A picture that a node showed or saved, as PIL."""
        import io

        from PIL import Image

        query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        return Image.open(io.BytesIO(self.fetch(f"/view?{query}"))).convert("RGB")

    def kept(self, name: str) -> Any:
        """What the probe node kept under this name."""
        import numpy

        return numpy.load(Path(self.output) / "probe" / f"{name}.npy")

    def clear_output(self) -> None:
        for entry in Path(self.output).glob("*"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
