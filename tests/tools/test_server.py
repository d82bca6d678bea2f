"""The private server, and the messages of a prompt."""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from comfyui_fewshot.tools import job, progress, server, websocket
from comfyui_fewshot.tools.console import Stop


def test_models_and_the_pack_reach_the_server_by_json(tmp_path):
    text = server.extra_paths(tmp_path / "with space" / "pack", {"checkpoints": [tmp_path, tmp_path / "b"], "vae": []})
    assert str(tmp_path / "with space").replace("\\", "\\\\") in text
    assert f"{tmp_path}\\n{tmp_path / 'b'}".replace("\\t", "\\\\t") in text and "vae" not in text


def test_the_server_is_private(tmp_path):
    made = server.ComfyServer(
        server.Installation(Path("python"), Path("C"), tmp_path / "pack"), output=tmp_path / "out", cpu=True
    )
    command = " ".join(made.command())
    for part in ("--cpu", "--listen 127.0.0.1", "--disable-all-custom-nodes --whitelist-custom-nodes pack"):
        assert part in command
    assert f"--base-directory {tmp_path / 'pack' / '.comfyui' / 'base'}" in command


def test_a_taken_port_is_not_used():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert server.free_port(taken.getsockname()[1]) != taken.getsockname()[1]


def started_from(host: Path, folder: Path) -> server.ComfyServer:
    return server.ComfyServer(server.Installation(Path(sys.executable), host, folder / "pack"), output=folder / "out")


def test_the_logs_end_is_shown_when_the_server_dies(tmp_path, fake_comfyui):
    host = fake_comfyui(tmp_path / "host", code="import sys; print('it was the butler'); sys.exit(3)")
    with pytest.raises(Stop, match="it was the butler"):
        started_from(host, tmp_path).__enter__()


def runs(pid: int) -> bool:
    """Whether the process is there and not just waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_server_and_its_children_end_with_us(tmp_path, fake_comfyui):
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {child!r}])"
    host = fake_comfyui(tmp_path / "host", code=code + "; print(p.pid, flush=True); time.sleep(60)")
    made = started_from(host, tmp_path)
    made._wait = lambda: None
    with made:
        end = time.monotonic() + 20
        while not made.last_words().strip() and time.monotonic() < end:
            time.sleep(0.05)
        started, child = made.process, int(made.last_words())
        assert started.poll() is None and runs(child)
    assert started.poll() is not None
    end = time.monotonic() + 5
    while runs(child) and time.monotonic() < end:
        time.sleep(0.05)
    assert not runs(child)


def serve_once(answer):
    """A socket that accepts one websocket, sends `answer(key)` and gives back what the client sends."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    got = {}

    def work():
        connection, _ = listener.accept()
        with connection:
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096)
            key = request.decode().partition("Sec-WebSocket-Key:")[2].split()[0]
            connection.sendall(answer(key))
            connection.settimeout(2)
            try:
                got["pong"] = connection.recv(100)
            except TimeoutError:
                got["pong"] = b""
        listener.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return listener.getsockname()[1], thread, got


def upgrade(key: str) -> bytes:
    accept = base64.b64encode(hashlib.sha1((key + websocket.GUID).encode()).digest()).decode()
    return f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()


def test_websocket_reads_long_fragmented_and_binary_messages():
    long = b"x" * 70000
    frames = b"\x81\x02hi" + b"\x82\x7f" + len(long).to_bytes(8, "big") + long
    frames += b"\x01\x03one" + b"\x89\x04ping" + b"\x80\x03two" + b"\x88\x00"
    port, thread, got = serve_once(lambda key: upgrade(key) + frames)
    client = websocket.WebSocket(port, "/ws")
    assert client.receive(2) == "hi"
    assert client.receive(2) == long
    assert client.receive(2) == "onetwo"
    with pytest.raises(websocket.Closed):
        client.receive(2)
    thread.join(5)
    assert got["pong"][:1] == b"\x8a"
    client.close()


def test_websocket_refuses_what_is_none():
    port, _, _ = serve_once(lambda key: b"HTTP/1.1 404 Not Found\r\n\r\n")
    with pytest.raises(websocket.Closed, match="404"):
        websocket.WebSocket(port, "/ws")


def test_refusals_name_the_node_and_the_reason():
    workflow = {"3": {"class_type": "FewShotTrain", "_meta": {"title": "Train Subject"}}}
    error = {"message": "Value not in list", "details": "folder: 'x'"}
    text = job.complaint({"node_errors": {"3": {"errors": [error]}}}, workflow)
    assert "Train Subject: Value not in list: folder: 'x'" in text
    assert "no outputs" in job.complaint({"error": {"message": "no outputs"}}, workflow)


def watch_of(workflow):
    return job.PromptWatcher(None, workflow, "p")


def test_the_watch_follows_its_own_prompt(capsys):
    watch = watch_of({"1": {"class_type": "Train"}})
    watch.handle_event("executing", {"node": "1", "prompt_id": "p"})
    watch.handle_event("execution_success", {"prompt_id": "another"})
    assert not watch.done
    watch.handle_message(b"\0\0\0\3" + b"\0\0\0\1" + b"1" + b"7/9 loss 0.25")
    watch.handle_event("progress", {"value": 9, "max": 9, "prompt_id": "p"})
    watch.handle_event("execution_success", {"prompt_id": "p"})
    assert watch.done
    assert "Train" in (shown := capsys.readouterr().out) and "9/9" in shown and "loss 0.25" in shown


def test_a_failed_node_is_named():
    error = {"node_id": "1", "exception_message": "no such folder\n", "prompt_id": "p"}
    with pytest.raises(job.Refused, match="Train failed: no such folder"):
        watch_of({"1": {"class_type": "Train"}}).handle_event("execution_error", error)


def test_the_bar_says_how_long_it_will_take(monkeypatch):
    bar = progress.ProgressBar()
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar.begin("Train")
    bar.update(0, 100)
    now[0] = 110.0
    bar.update(20, 100)
    assert bar.line().endswith("20/100  ETA 0:40")
    bar.note("20/100 loss 0.5")
    assert "loss 0.5" in bar.line() and bar.line().count("20/100") == 1
