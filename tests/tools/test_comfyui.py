"""Which ComfyUI is used, and how one is brought: no network."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from pathlib import Path

import pytest

from comfyui_fewshot import tools
from comfyui_fewshot.tools import comfyui
from comfyui_fewshot.tools.console import Stop

ROOT = Path(tools.__file__).parent.parent


def test_named_comfyui_wins(tmp_path, fake_comfyui):
    one, two = fake_comfyui(tmp_path / "one"), fake_comfyui(tmp_path / "two")
    pack = fake_comfyui(tmp_path / "host") / "custom_nodes" / "pack"
    environ = {"COMFYUI_PATH": str(two)}
    assert comfyui.choose(str(one), environ, pack).folder == one
    assert comfyui.choose(None, environ, pack).folder == two
    assert comfyui.choose(None, {}, pack).folder == tmp_path / "host"
    assert comfyui.choose(None, {}, tmp_path / "elsewhere") is None


def test_comfyui_brought_earlier_is_used_again(tmp_path, fake_comfyui):
    brought = fake_comfyui(tmp_path / ".comfyui" / "ComfyUI")
    assert comfyui.choose(None, {}, tmp_path).folder == brought
    (brought / "main.py").unlink()
    assert comfyui.choose(None, {}, tmp_path) is None


def test_no_comfyui_at_the_named_place_is_an_error(tmp_path):
    with pytest.raises(Stop, match="COMFYUI_PATH.*holds no ComfyUI"):
        comfyui.choose(None, {"COMFYUI_PATH": str(tmp_path)}, tmp_path)


def test_old_comfyui_is_refused(tmp_path, fake_comfyui):
    with pytest.raises(Stop, match=r"0\.19\.3.*0\.24\.0"):
        comfyui.choose(str(fake_comfyui(tmp_path / "old", "0.19.3")), {}, tmp_path)


def test_pack_asks_for_the_comfyui_that_run_asks_for():
    assert f'requires-comfyui = ">={".".join(map(str, comfyui.OLDEST))}"' in (ROOT / "pyproject.toml").read_text()


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
    assert comfyui.check_sha256(file, digest) == file
    with pytest.raises(Stop, match=digest):
        comfyui.check_sha256(file, comfyui.SDIST_SHA256)


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
