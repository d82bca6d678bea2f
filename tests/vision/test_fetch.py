"""Models from the hub, against a hub of the test's own: whole folders of safetensors, progress, cancel, refusals."""

import json
import socket
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.vision import fetch as fetching
from comfyui_fewshot.vision.fetch import FETCHABLE_MODELS, draft_folder, fetch, is_complete, list_files

NAME = "someone/small"
FILES = {
    "config.json": b'{"model_type": "clip"}',
    "vocab.txt": b"a\nb\n",
    "model.safetensors": save({"weight": torch.zeros(750_000)}),
    "pytorch_model.bin": b"pickle",
    "open_clip_model.safetensors": b"another network",
    "onnx/model.onnx": b"elsewhere",
    "README.md": b"words",
}
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """What huggingface.co answers to the two questions that are asked: what is there, and a file."""

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.asked, self.stop_after = files, [], None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer(False)

    def do_GET(self):
        self._answer(True)

    def _answer(self, whole):
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{NAME}"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.server.files.items()]
            return self._send(json.dumps({"id": NAME, "sha": COMMIT, "siblings": siblings}).encode(), whole)
        name = path.rpartition(f"/{NAME}/resolve/{COMMIT}/")[2]
        if name not in self.server.files:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if whole:
            self.server.asked.append((name, self.headers.get("Range")))
        self._send(self.server.files[name], whole)

    def _send(self, data, whole):
        first = int(self.headers["Range"][6:].split("-")[0]) if self.headers.get("Range") else 0
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if whole:
            self.wfile.write(data[first:])


@pytest.fixture
def hub():
    server = Hub(dict(FILES))
    yield server
    server.shutdown()
    server.server_close()


class Told:
    def __init__(self, stop_at=None):
        self.lines, self.stop_at = [], stop_at

    def check(self):
        if self.stop_at is not None and len(self.lines) >= self.stop_at:
            raise KeyboardInterrupt

    def report(self, done, total, text="", picture=None):
        self.lines.append((done, total, text))


def test_a_model_arrives_whole_and_without_anything_else(hub, tmp_path):
    told = Told()
    folder = fetch(NAME, tmp_path / "clip", told, hub.url)
    assert folder == tmp_path / "clip" / "small"
    wanted = ("config.json", "vocab.txt", "model.safetensors")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: FILES[name] for name in wanted}
    assert [name for name, _ in hub.asked] == ["vocab.txt", "config.json", "model.safetensors"], "small ones first"
    assert told.lines[-1][1] == 3 and "of 3 MB" in told.lines[-1][2]
    count = len(hub.asked)
    assert fetch(NAME, tmp_path / "clip", told, hub.url) == folder and len(hub.asked) == count, "it is there"


def test_a_cancel_leaves_no_half_model_and_the_next_try_ends_it(hub, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, tmp_path, Told(stop_at=2), hub.url)
    assert not (tmp_path / "small").exists()
    draft = draft_folder(tmp_path / ".fetching", NAME, COMMIT)
    assert (draft / "vocab.txt").is_file()
    while any(thread.name == "fetch" for thread in threading.enumerate()):  # the file that was under way arrives
        time.sleep(0.05)
    hub.asked.clear()
    wanted = len(FILES["model.safetensors"])
    assert (fetch(NAME, tmp_path, None, hub.url) / "model.safetensors").stat().st_size == wanted
    assert "vocab.txt" not in [name for name, _ in hub.asked], "what had arrived is not fetched again"


def test_a_folder_that_is_not_whole_is_filled(hub, tmp_path):
    """A config alone, cut weights, a missing part: none of these is a model; what a person put there beside stays."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "config.json").write_bytes(FILES["config.json"])
    (folder / "notes.md").write_text("mine")
    (folder / "model.safetensors").write_bytes(FILES["model.safetensors"][:1000])
    assert not is_complete(folder)
    assert fetch(NAME, tmp_path, None, hub.url) == folder and is_complete(folder)
    assert (folder / "notes.md").read_text() == "mine" and not draft_folder(
        tmp_path / ".fetching", NAME, COMMIT
    ).exists()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')
    assert not is_complete(folder)


def test_a_link_to_another_disk_is_followed_and_a_file_in_the_way_is_said(hub, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "small").symlink_to(tmp_path / "elsewhere")
    fetch(NAME, tmp_path, None, hub.url)
    assert is_complete(tmp_path / "elsewhere")
    (tmp_path / "other" / "small").parent.mkdir()
    (tmp_path / "other" / "small").write_text("a file")
    with pytest.raises(FewShotError, match="is no folder"):
        fetch(NAME, tmp_path / "other", None, hub.url)
    with pytest.raises(FewShotError, match="could not be fetched"):
        fetch(NAME, tmp_path / "other" / "small", None, hub.url)


def test_weights_that_are_a_page_are_no_model(hub, tmp_path):
    hub.files["model.safetensors"] = b"<html>sign in</html>"
    with pytest.raises(FewShotError, match="no whole safetensors"):
        fetch(NAME, tmp_path, None, hub.url)
    assert not (tmp_path / "small").exists() and not draft_folder(tmp_path / ".fetching", NAME, COMMIT).exists()


def test_a_draft_of_another_revision_is_not_mixed_in(hub, tmp_path):
    """That of a model whose name begins alike stays."""
    old, other = (draft_folder(tmp_path / ".fetching", name, "d" * 40) for name in (NAME, f"{NAME}-xl"))
    for draft in (old, other):
        draft.mkdir(parents=True)
        (draft / "old.json").write_text("{}")
    folder = fetch(NAME, tmp_path, None, hub.url)
    assert not (folder / "old.json").exists() and not old.exists() and (other / "old.json").is_file()


def test_a_deep_folder_takes_a_model(hub, tmp_path):
    """Older libraries of the hub lose files whose path has 256 characters: the draft's are short."""
    root = tmp_path / ("a" * max(1, 90 - len(str(tmp_path))))
    assert is_complete(fetch(NAME, root, None, hub.url))


def test_one_fetch_at_a_time(hub, tmp_path):
    (tmp_path / ".fetching").mkdir()
    with FileLock(tmp_path / ".fetching" / "small.lock"), pytest.raises(FewShotError, match="being fetched already"):
        fetch(NAME, tmp_path, None, hub.url)


def test_a_hub_that_says_nothing_can_be_left(tmp_path):
    """The list of files is waited for apart, so that a cancel need not wait for it."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetch(NAME, tmp_path, Told(stop_at=0), f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 5


def test_other_weights_are_refused(hub, tmp_path):
    del hub.files["model.safetensors"], hub.files["open_clip_model.safetensors"]
    with pytest.raises(FewShotError, match=r"holds no model\.safetensors \(but pytorch_model\.bin\)"):
        fetch(NAME, tmp_path, None, hub.url)
    assert not hub.asked and not (tmp_path / "small").exists()


def test_split_weights_are_taken_with_their_index(hub):
    del hub.files["model.safetensors"]
    parts = {f"model-0000{n}-of-00002.safetensors": b"1" for n in (1, 2)} | {"model.safetensors.index.json": b"{}"}
    hub.files |= parts
    assert {file.name for file in list_files(NAME, hub.url)[1]} == {*parts, "config.json", "vocab.txt"}


@pytest.mark.parametrize(("name", "url"), [("someone/other", None), (NAME, "http://127.0.0.1:9")])
def test_what_cannot_be_fetched_says_what_goes_where(hub, tmp_path, name, url):
    with pytest.raises(FewShotError, match=rf"could not be fetched .*By hand: put config\.json.*{tmp_path.name}"):
        fetch(name, tmp_path, None, url or hub.url)


def test_a_full_disk_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "RESERVED_BYTES", 2**60)
    with pytest.raises(FewShotError, match="make room"):
        fetch(NAME, tmp_path, None, hub.url)
    assert not hub.asked


def test_known_models_have_a_repository_and_one_folder():
    assert all(name.count("/") == 1 and "/" not in known.kind and known.use for name, known in FETCHABLE_MODELS.items())
    places = [(known.kind, name.rpartition("/")[2]) for name, known in FETCHABLE_MODELS.items()]
    assert len(set(places)) == len(places)
