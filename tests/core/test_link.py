"""A trained base at its second place: linked or copied whole, or not at all."""

import errno
import os
import shutil

import pytest

from comfyui_fewshot.core import link
from comfyui_fewshot.core.errors import FewShotError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    return path


def cannot_link(*_):
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def test_it_is_linked(file, tmp_path):
    place = link.keep(file, tmp_path / "checkpoints" / "base.safetensors")
    assert place.samefile(file)
    file.unlink()
    assert link.keep(file, place).read_bytes() == b"weights", "what is there stays"


def test_it_is_copied_where_it_cannot_be_linked(file, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", cannot_link)
    place = link.keep(file, tmp_path / "checkpoints" / "base.safetensors")
    assert place.read_bytes() == b"weights" and not place.samefile(file)
    assert os.listdir(place.parent) == [place.name]


def test_a_full_disk_is_told_and_leaves_nothing(file, tmp_path, monkeypatch):
    def full(source, target):
        target.write_bytes(b"wei")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", cannot_link)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(FewShotError, match=r"base\.safetensors cannot be written: No space left .*; free some space"):
        link.keep(file, tmp_path / "checkpoints" / "base.safetensors")
    assert os.listdir(tmp_path / "checkpoints") == []
