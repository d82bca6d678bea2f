"""Files that are no weights, whatever their name says: one sentence each, never a library's advice."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.broken_files import stand_in
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.weight_files import check_weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1790000000\n"


class Payload:
    def __reduce__(self):
        return print, ("this must never run",)


def saved(value, **how) -> bytes:
    torch.save(value, buffer := io.BytesIO(), **how)
    return buffer.getvalue()


def zipped() -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as archive:
        archive.writestr("model/ImageReward.pt", b"x" * 100)
    return buffer.getvalue()


def tarred() -> bytes:
    with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.bin"))
    return buffer.getvalue()


def program() -> bytes:
    """What torch.jit.save leaves, as torch sees it."""
    with zipfile.ZipFile(buffer := io.BytesIO(saved(WEIGHTS)), "a") as archive:
        archive.writestr("archive/constants.pkl", pickle.dumps(()))
    return buffer.getvalue()


WEIGHTS = {"a": torch.ones(100)}
MORE = "holds more than weights, and is not opened for safety: choose a .safetensors"
DAMAGED = "is cut short or damaged"
RENAME = "is a pickled PyTorch file by its content.*rename it to end in .ckpt"
FILES = {
    "pointer.pt": (POINTER, "is a Git LFS pointer .74 bytes., not the weights: download the real file"),
    "pointer.safetensors": (POINTER, "is a Git LFS pointer"),
    "annex.bin": (b"/annex/objects/SHA256E-s10--abc\n", "is a git-annex pointer"),
    "page.pth": (b"<!DOCTYPE html><html></html>", "is a web page"),
    "page2.pt": (b"\xef\xbb\xbf\r\n <html>", "is a web page"),
    "answer.pt": (
        b'{"error":"Repository not found"}',
        'is a text .32 bytes: \'{"error":"Repository not found"}\'.*again',
    ),
    "answer2.safetensors": (b"Entry not found", "is a text .15 bytes: 'Entry not found'., not weights"),
    "empty.bin": (b"", "is cut short: it is empty .0 bytes.: the download failed"),
    "cut.pt": (saved(WEIGHTS)[:600], DAMAGED),
    "old_cut.pt": (saved(WEIGHTS, _use_new_zipfile_serialization=False)[:-300], DAMAGED),
    "noise.pt": (bytes(range(128, 256)) * 8, DAMAGED),
    "zeros.pt": (bytes(1000), DAMAGED),
    "cut.safetensors": (safetensors.torch.save(WEIGHTS)[:-50], DAMAGED),
    "archive.pt": (zipped(), "is a zip archive .with model/ImageReward.pt in it.: unpack it"),
    "archive.bin": (gzip.compress(b"x" * 1000), "is a gzip archive: unpack it"),
    "archive.pth": (tarred(), "is a tar archive: unpack it"),
    "llama.pt": (b"GGUF" + bytes(100), "is a GGUF file"),
    "keras.bin": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "picture.pt": (b"\x89PNG\r\n\x1a\n" + bytes(100), "is a picture"),
    "program.pt": (program(), "is a TorchScript program, not weights alone"),
    "module.pt": (saved(torch.nn.Linear(2, 2)), MORE),
    "code.pt": (pickle.dumps(Payload()), MORE),
    "code.ckpt": (saved({"state_dict": Payload()}), MORE),
    "list.pt": (saved([torch.ones(2)]), "holds no weights by name"),
    "one.pt": (saved(torch.ones(2)), "holds no weights by name"),
    "number.pt": (saved({"state_dict": 3}), "holds no weights by name"),
    "count.pt": (saved({5: torch.ones(2)}), "holds a tensor under 5, which is no name"),
    "count2.ckpt": (saved(WEIGHTS | {5: torch.ones(2)}), "holds a tensor under 5, which is no name"),
    "named.pt": (safetensors.torch.save(WEIGHTS), "is a safetensors file by its content: rename it"),
    "named.safetensors": (saved(WEIGHTS), RENAME),
    "named2.safetensors": (pickle.dumps(Payload()), RENAME),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_what_a_file_is_is_said(tmp_path: Path, name: str, capsys):
    data, words = FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(FewShotError, match=f"^{name} ({words})") as caught:
        check_weights(tmp_path / name)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.eye(3).to_sparse(), "sparse"),
        (torch.empty(3, device="meta"), "no numbers"),
        (torch.ones(1).expand(100_000, 768_000), r"4 bytes for the shape \(100000, 768000\)"),
    ],
)
def test_tensors_that_only_pickles_hold_are_named(tmp_path: Path, tensor: torch.Tensor, words: str):
    (tmp_path / "a.pt").write_bytes(saved(WEIGHTS | {"odd": tensor}))
    with pytest.raises(FewShotError, match=f"^odd in a.pt holds {words}"):
        check_weights(tmp_path / "a.pt")


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}])
def test_whole_files_are_read(tmp_path: Path, how: dict):
    (tmp_path / "a.pt").write_bytes(saved(WEIGHTS, **how))
    check_weights(tmp_path / "a.pt")


def test_a_text_may_be_text(tmp_path: Path):
    for name, data, found in (
        ("vocab.txt", b"[PAD]\n", None),
        ("config.json", b"{}", None),
        ("model.bin", b"{}", "is a text"),
        ("tokenizer.json", POINTER, "is a Git LFS pointer"),
        ("vocab.json", b"<html>", "is a web page"),
    ):
        (tmp_path / name).write_bytes(data)
        said = stand_in(tmp_path / name)
        assert said is None if found is None else found in str(said), name
    assert stand_in(tmp_path / "nowhere.pt") is None
