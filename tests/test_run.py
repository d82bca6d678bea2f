"""run.py and what it is made of: no network, no installs."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

from comfyui_fewshot import tools
from comfyui_fewshot.tools import comfyui, demo, environment, job, progress, publishing, server, testing, websocket
from comfyui_fewshot.tools.said import Stop

ROOT = Path(tools.__file__).parent.parent


@pytest.fixture
def run(monkeypatch):
    """run.py as a module, without the repository's root on sys.path."""
    monkeypatch.setitem(sys.modules, "tools", tools)
    for name in ("comfyui", "demo", "publishing", "testing", "environment", "said", "server"):
        monkeypatch.setitem(sys.modules, f"tools.{name}", sys.modules[f"comfyui_fewshot.tools.{name}"])
    spec = importlib.util.spec_from_file_location("fewshot_run", ROOT / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_comfyui(folder: Path, version: str = "0.30.0") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text("")
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


# ------------------------------------------------------------------------------------------------- command line


def test_help_names_every_command():
    shown = subprocess.run([sys.executable, str(ROOT / "run.py"), "--help"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in ("demo", "test", "comfy", "bench", "check-publish"))


def test_demo_takes_a_persons_own_job(run):
    chosen = run.parse("demo --base m.safetensors --pictures p --identifier zwx --noun dog --comfyui c".split())
    assert (chosen.base, chosen.pictures) == (Path("m.safetensors"), Path("p"))
    assert (chosen.identifier, chosen.noun, chosen.comfyui) == ("zwx", "dog", "c")


@pytest.mark.parametrize(
    "line",
    [
        "demo --base m.safetensors",
        "demo --pictures folder",
        "demo --base m.safetensors --pictures p",
        "demo --noun dog",
        "demo --frobnicate",
        "bench",
        "fly",
    ],
)
def test_half_a_command_is_refused(run, line, capsys):
    with pytest.raises(SystemExit) as refusal:
        run.parse(line.split())
    assert refusal.value.code == 2
    assert "run.py" in capsys.readouterr().err


def test_what_test_does_not_know_goes_to_pytest(run):
    chosen = run.parse(["test", "-k", "formats", "--co", "tests/models", "--comfyui", "c"])
    assert chosen.pytest == ["-k", "formats", "--co", "tests/models"]
    assert chosen.comfyui == "c"


def test_bench_has_a_name_and_a_file(run):
    chosen = run.parse(["bench", "import", "--json", "rows.json", "--quick"])
    assert (chosen.name, chosen.json, chosen.quick) == ("import", Path("rows.json"), True)


def test_a_reason_to_stop_is_one_sentence_and_exit_code_one(run, tmp_path, capsys):
    line = ["demo", "--base", str(tmp_path / "no.safetensors"), "--pictures", str(tmp_path), "--noun", "x"]
    assert run.main(line) == 1
    said = capsys.readouterr().err
    assert "no.safetensors" in said and "Traceback" not in said


# ------------------------------------------------------------------------------------------------ which ComfyUI


def test_named_comfyui_wins(tmp_path):
    one, two = fake_comfyui(tmp_path / "one"), fake_comfyui(tmp_path / "two")
    pack = fake_comfyui(tmp_path / "host") / "custom_nodes" / "pack"
    environ = {"COMFYUI_PATH": str(two)}
    assert comfyui.choose(str(one), environ, pack).folder == one
    assert comfyui.choose(None, environ, pack).folder == two
    assert comfyui.choose(None, {}, pack).folder == tmp_path / "host"
    assert comfyui.choose(None, {}, tmp_path / "elsewhere") is None


def test_comfyui_brought_earlier_is_used_again(tmp_path):
    brought = fake_comfyui(tmp_path / ".comfyui" / "ComfyUI")
    assert comfyui.choose(None, {}, tmp_path).folder == brought
    (brought / "main.py").unlink()
    assert comfyui.choose(None, {}, tmp_path) is None


def test_no_comfyui_at_the_named_place_is_an_error(tmp_path):
    with pytest.raises(Stop, match="COMFYUI_PATH.*holds no ComfyUI"):
        comfyui.choose(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path)


def test_old_comfyui_is_refused(tmp_path):
    with pytest.raises(Stop, match=r"0\.19\.3.*0\.24\.0"):
        comfyui.choose(str(fake_comfyui(tmp_path / "old", "0.19.3")), {}, tmp_path)


def test_pack_asks_for_the_comfyui_that_run_asks_for():
    assert f'requires-comfyui = ">={".".join(map(str, comfyui.OLDEST))}"' in (ROOT / "pyproject.toml").read_text()


# ----------------------------------------------------------------------------------------------------- unpacking


def archive(path: Path, **members: bytes | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_only_the_wanted_folder_is_unpacked(tmp_path):
    file = archive(tmp_path / "a.tar.gz", **{"p/vendor/C/x/y.py": b"1", "p/vendor/Cx/z.py": b"2", "p/setup.py": b"3"})
    comfyui.unpack(file, "p/vendor/C", tmp_path / "out")
    assert [f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.py")] == ["x/y.py"]


@pytest.mark.parametrize("name", ["p/C/../../evil", "p/C/a/../../../evil", "p/C/..\\evil", "p/C/C:evil"])
def test_paths_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(Stop, match="no plain file"):
        comfyui.unpack(archive(tmp_path / "a.tar.gz", **{name: b"x"}), "p/C", tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("p/C/link")
    link.type, link.linkname = kind, "/etc/passwd"
    with pytest.raises(Stop, match="no plain file"):
        comfyui.unpack(archive(tmp_path / "a.tar.gz", link=link), "p/C", tmp_path / "out")


def test_an_archive_without_the_folder_is_an_error(tmp_path):
    with pytest.raises(Stop, match="holds no p/C"):
        comfyui.unpack(archive(tmp_path / "a.tar.gz", **{"q/x": b"1"}), "p/C", tmp_path / "out")


def test_another_files_hash_is_refused(tmp_path):
    file = tmp_path / "f.tar.gz"
    file.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    assert comfyui.verified(file, digest) == file
    with pytest.raises(Stop, match=digest):
        comfyui.verified(file, comfyui.SDIST_SHA256)


def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(comfyui, "by_git", lambda target: False)
    (tmp_path / "python").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    command = tmp_path / "python"
    if os.name == "nt":
        command = Path(sys.executable).with_name("no-such-python.exe")
    with pytest.raises((Stop, OSError)):
        comfyui.bring(tmp_path / "repo", command)
    assert not list((tmp_path / "repo" / ".comfyui").iterdir())


# --------------------------------------------------------------------------------------------------------- stamps


def test_a_step_is_done_once_for_each_key(tmp_path):
    done = []
    for key in ("a", "a", "b", "b"):
        environment.once(tmp_path, "step", key, lambda key=key: done.append(key), "doing it")
    assert done == ["a", "b"]


def test_a_step_that_fails_is_done_again(tmp_path):
    def fail():
        raise Stop("no network")

    environment.once(tmp_path, "step", "a", lambda: None, "doing it")
    with pytest.raises(Stop):
        environment.once(tmp_path, "step", "b", fail, "doing it")
    done = []
    environment.once(tmp_path, "step", "a", lambda: done.append(1), "doing it")
    assert done, "the stamp of the first success must not outlive the failed second step"


def test_lower_bounds_are_the_declared_ones():
    pins = environment.lower_bounds((ROOT / "requirements.txt").read_text().splitlines())
    assert "transformers==4.50.3" in pins
    with pytest.raises(Stop, match="numpy"):
        environment.lower_bounds(["numpy"])


# --------------------------------------------------------------------------------------------------------- server


def test_models_and_the_pack_reach_the_server_by_json(tmp_path):
    text = server.extra_paths(tmp_path / "with space" / "pack", {"checkpoints": [tmp_path, tmp_path / "b"], "vae": []})
    assert str(tmp_path / "with space").replace("\\", "\\\\") in text
    assert f"{tmp_path}\\n{tmp_path / 'b'}".replace("\\t", "\\\\t") in text and "vae" not in text


def test_the_server_is_private(tmp_path):
    made = server.Server(Path("python"), Path("C"), tmp_path / "pack", output=tmp_path / "out", cpu=True)
    command = " ".join(made.command())
    for part in ("--cpu", "--listen 127.0.0.1", "--disable-all-custom-nodes --whitelist-custom-nodes pack"):
        assert part in command
    assert f"--base-directory {tmp_path / 'pack' / '.comfyui' / 'base'}" in command


def test_a_taken_port_is_not_used():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert server.free_port(taken.getsockname()[1]) != taken.getsockname()[1]


def failing_comfyui(folder: Path, code: str) -> Path:
    fake_comfyui(folder)
    (folder / "main.py").write_text(code)
    return folder


def test_the_logs_end_is_shown_when_the_server_dies(tmp_path):
    host = failing_comfyui(tmp_path / "host", "import sys; print('it was the butler'); sys.exit(3)")
    with pytest.raises(Stop, match="it was the butler"):
        server.Server(Path(sys.executable), host, tmp_path / "pack", output=tmp_path / "out").__enter__()


def runs(pid: int) -> bool:
    """Whether the process is there and not just waiting to be reaped."""
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_server_and_its_children_end_with_us(tmp_path):
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {child!r}])"
    host = failing_comfyui(tmp_path / "host", code + "; print(p.pid, flush=True); time.sleep(60)")
    made = server.Server(Path(sys.executable), host, tmp_path / "pack", output=tmp_path / "out")
    made._wait = lambda: None
    with made:
        end = time.monotonic() + 20
        while not made.last_words().strip() and time.monotonic() < end:
            time.sleep(0.05)
        started, child = made.process, int(made.last_words())
        assert started.poll() is None and runs(child)
    assert started.poll() is not None
    assert not runs(child)


# -------------------------------------------------------------------------------------------- messages and the bar


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
    import base64

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
    return job.Watch(None, workflow, "p")


def test_the_watch_follows_its_own_prompt(capsys):
    watch = watch_of({"1": {"class_type": "Train"}})
    watch.event("executing", {"node": "1", "prompt_id": "p"})
    watch.event("execution_success", {"prompt_id": "another"})
    assert not watch.done
    watch.take(b"\0\0\0\3" + b"\0\0\0\1" + b"1" + b"7/9 loss 0.25")
    watch.event("progress", {"value": 9, "max": 9, "prompt_id": "p"})
    watch.event("execution_success", {"prompt_id": "p"})
    assert watch.done
    assert "Train" in (shown := capsys.readouterr().out) and "9/9" in shown and "loss 0.25" in shown


def test_a_failed_node_is_named():
    error = {"node_id": "1", "exception_message": "no such folder\n", "prompt_id": "p"}
    with pytest.raises(job.Refused, match="Train failed: no such folder"):
        watch_of({"1": {"class_type": "Train"}}).event("execution_error", error)


def test_the_bar_says_how_long_it_will_take(monkeypatch):
    bar = progress.Bar()
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar.begin("Train")
    bar.update(0, 100)
    now[0] = 110.0
    bar.update(20, 100)
    assert bar.line().endswith("20/100  ETA 0:40")
    bar.note("20/100 loss 0.5")
    assert "loss 0.5" in bar.line() and bar.line().count("20/100") == 1


# ----------------------------------------------------------------------------------------- demo, tests, publishing


def test_a_persons_paths_are_looked_at_first(run, tmp_path):
    base = tmp_path / "m.safetensors"
    base.write_bytes(b"")
    arguments = ["demo", "--base", str(base), "--pictures", str(tmp_path), "--noun", "dog"]
    with pytest.raises(Stop, match="holds no picture"):
        demo.own_job(run.parse(arguments))
    (tmp_path / "a.JPG").write_bytes(b"")
    (tmp_path / "a_mask.png").write_bytes(b"")
    assert demo.own_job(run.parse(arguments)).base == base
    with pytest.raises(Stop, match="no checkpoint file"):
        demo.own_job(run.parse([*arguments[:2], str(tmp_path), *arguments[3:]]))


def test_what_was_kept_is_told(tmp_path, capsys):
    before = demo.files_in(tmp_path)
    demo.tell_kept(tmp_path, before)
    assert "nothing was kept" in capsys.readouterr().out
    (tmp_path / "partial.safetensors").write_bytes(b"")
    demo.tell_kept(tmp_path, before)
    assert "partial.safetensors" in capsys.readouterr().out


def test_tests_go_on_after_a_failed_leg(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(testing, "leg", lambda name, *_: asked.append(name) or int(name == "types"))
    env = environment.Environment(Path("v"))
    assert testing.run_all(env, env, Path("c"), ROOT) == 1
    assert asked[-1] == "tests" and "types" in capsys.readouterr().out


def test_blanks_are_refused(tmp_path):
    blank = (ROOT / "pyproject.toml").read_text()
    filled = blank.replace('PublisherId = "FILL-IN"', 'PublisherId = "someone"')
    filled = filled.replace("example.invalid/FILL-IN", "github.com/someone")
    assert publishing.blanks(filled) == []
    assert publishing.blanks('PublisherId = ""\n') == ["PublisherId", "Repository"]
    (tmp_path / "pyproject.toml").write_text(blank.replace('PublisherId = "someone"', 'PublisherId = "FILL-IN"'))
    if publishing.blanks(blank):
        with pytest.raises(Stop, match="cannot be published yet"):
            publishing.check(tmp_path)
    (tmp_path / "pyproject.toml").write_text(filled)
    publishing.check(tmp_path)
