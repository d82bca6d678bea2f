"""One prompt in a running ComfyUI: submitted, watched with a progress bar, and interrupted by Ctrl-C."""

from __future__ import annotations

import json
import struct
import time
import uuid
from typing import Any

from .console import Stop, say
from .progress import ProgressBar
from .server import ComfyServer
from .websocket import Closed, WebSocket

TEXT_EVENT = 3  # ComfyUI's BinaryEventTypes.TEXT
SILENCE = 20.0  # seconds without a message after which the history is asked


class Refused(Stop):
    """The server would not take the prompt, or a node of it failed."""


def run(server: ComfyServer, workflow: dict[str, dict]) -> dict[str, Any]:
    """Run an API-form workflow to its end and give its history entry. Ctrl-C interrupts it and is passed on."""
    client = uuid.uuid4().hex
    socket = WebSocket(server.port, f"/ws?clientId={client}")
    try:
        prompt_id = submit(server, workflow, client)
        try:
            PromptWatcher(server, workflow, prompt_id).until_done(socket)
        except KeyboardInterrupt:
            interrupt(server, prompt_id)
            raise
    finally:
        socket.close()
    return written_history(server, prompt_id)


def submit(server: ComfyServer, workflow: dict[str, dict], client: str) -> str:
    status, answer = server.post("/prompt", {"prompt": workflow, "client_id": client})
    if status != 200 or answer.get("node_errors"):
        raise Refused(f"ComfyUI refused the workflow:\n{complaint(answer or {}, workflow)}")
    return answer["prompt_id"]


def complaint(answer: dict[str, Any], workflow: dict[str, dict]) -> str:
    """The answer's errors, a line each, with the names of the nodes."""
    lines = []
    for node, report in (answer.get("node_errors") or {}).items():
        for error in report.get("errors", []):
            lines.append(f"  {title(workflow, node)}: {error.get('message', '')}: {error.get('details', '')}")
    error = answer.get("error") or {}
    return "\n".join(lines) or f"  {error.get('message', answer)} {error.get('details', '')}".rstrip()


def title(workflow: dict[str, dict], node: str) -> str:
    entry = workflow.get(node, {})
    return entry.get("_meta", {}).get("title") or entry.get("class_type") or f"node {node}"


def history(server: ComfyServer, prompt_id: str) -> dict[str, Any] | None:
    return server.get(f"/history/{prompt_id}").get(prompt_id)


def written_history(server: ComfyServer, prompt_id: str, patience: float = 30) -> dict[str, Any]:
    """The entry of a prompt that has ended; ComfyUI writes it a moment after its last message."""
    end = time.monotonic() + patience
    while (entry := history(server, prompt_id)) is None:
        if time.monotonic() > end:
            raise Stop(f"ComfyUI ended the prompt {prompt_id} and keeps no history of it.")
        time.sleep(0.05)
    return entry


def interrupt(server: ComfyServer, prompt_id: str, patience: float = 60) -> None:
    """Ask for the end of the prompt and wait for it, so that what was learned is on disk."""
    say("\nInterrupting: the step in hand is finished and what was learned is written.")
    server.post("/interrupt", {})
    end = time.monotonic() + patience
    while time.monotonic() < end and server.alive and history(server, prompt_id) is None:
        time.sleep(0.5)


class PromptWatcher:
    """Follows the messages about one prompt."""

    def __init__(self, server: ComfyServer, workflow: dict[str, dict], prompt_id: str):
        self.server, self.workflow, self.prompt_id = server, workflow, prompt_id
        self.bar = ProgressBar()
        self.done = False

    def until_done(self, socket: WebSocket) -> None:
        last_message = time.monotonic()
        try:
            while not self.done:
                try:
                    message = socket.receive(timeout=1.0)
                except Closed as error:
                    words = self.server.last_words()
                    raise Stop(f"ComfyUI ended in the middle of the work ({error}):\n{words}") from error
                if message is not None:
                    last_message = time.monotonic()
                    self.handle_message(message)
                elif time.monotonic() - last_message > SILENCE:
                    last_message = time.monotonic()
                    self.ask_history()
        finally:
            self.bar.close()

    def ask_history(self) -> None:
        """Messages can be lost; the history is not."""
        entry = history(self.server, self.prompt_id)
        if entry is None:
            return
        for kind, data in entry.get("status", {}).get("messages", []):
            self.handle_event(kind, data)
        self.done = True

    def handle_message(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            if len(message) > 8 and struct.unpack_from(">I", message)[0] == TEXT_EVENT:
                length = struct.unpack_from(">I", message, 4)[0]
                self.bar.note(message[8 + length :].decode("utf-8", "replace"))
            return
        content = json.loads(message)
        self.handle_event(content.get("type", ""), content.get("data") or {})

    def handle_event(self, kind: str, data: dict[str, Any]) -> None:
        if data.get("prompt_id") not in (None, self.prompt_id):
            return
        if kind == "executing" and data.get("node"):
            self.bar.begin(title(self.workflow, str(data["node"])))
        elif kind == "progress":
            self.bar.update(data["value"], data["max"])
        elif kind == "execution_success":
            self.done = True
        elif kind == "execution_interrupted":
            raise Stop(f"The work was interrupted in {title(self.workflow, str(data.get('node_id')))}.")
        elif kind == "execution_error":
            where = title(self.workflow, str(data.get("node_id")))
            raise Refused(f"{where} failed: {str(data.get('exception_message', '')).strip()}")
