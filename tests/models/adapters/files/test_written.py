"""LoRA files as they are written: whole or not at all, under a new name, with metadata for other programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from comfyui_fewshot.core.atomic import make_folder, write_whole
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import LowRank
from comfyui_fewshot.models.adapters.formats import read_lora, write_lora

from .tensors import TEXT, UNET, adapter, header, pair


def test_files_can_be_read_by_others(tmp_path: Path):
    usual = tmp_path / "usual"
    usual.touch()
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    assert path.stat().st_mode == usual.stat().st_mode


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path):
    (tmp_path / "loras").touch()
    with pytest.raises(FewShotError, match="cannot be written"):
        write_lora(adapter(), tmp_path / "loras" / "a.safetensors")


def test_metadata(tmp_path: Path):
    mine = adapter(metadata={"ss_steps": "500", "ss_learning_rate": "0.0001", "modelspec.resolution": "64x64"})
    path = write_lora(mine, tmp_path / "my cat.safetensors")
    metadata = header(path)
    assert metadata["ss_network_module"] == "networks.lora"
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("4", "2")
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["ss_v2"] == "False"
    assert metadata["ss_output_name"] == metadata["modelspec.title"] == "my cat"
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.trigger_phrase"] == "sks cat" and metadata["modelspec.sai_model_spec"] == "1.0.1"
    assert metadata["modelspec.resolution"] == "64x64" and metadata["ss_steps"] == "500"
    assert json.loads(metadata["ss_tag_frequency"]) == {"my cat": {"sks cat": 1}}
    assert len(metadata["sshs_model_hash"]) == 64 and len(metadata["sshs_legacy_hash"]) == 8
    again = write_lora(read_lora(path), tmp_path / "other.safetensors")
    assert header(again)["modelspec.title"] == "other"
    assert header(again)["sshs_model_hash"] == metadata["sshs_model_hash"]


def test_the_hash_is_that_of_the_tensors_on_disk(tmp_path: Path):
    import hashlib

    path = write_lora(adapter(), tmp_path / "a.safetensors")
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    assert hashlib.sha256(body).hexdigest() == header(path)["sshs_model_hash"]
    assert header(path)["modelspec.hash_sha256"] == "0x" + header(path)["sshs_model_hash"]


def test_a_name_is_never_written_over(tmp_path: Path):
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(FewShotError, match="exists already"):
        write_lora(adapter(trigger="other"), path)
    assert path.read_bytes() == before


def test_a_name_taken_in_the_last_moment(tmp_path: Path, monkeypatch):
    from comfyui_fewshot.models.adapters import formats

    path = tmp_path / "a.safetensors"
    check = formats._check_names
    monkeypatch.setattr(formats, "_check_names", lambda *args: (check(*args), path.write_bytes(b"theirs")))
    with pytest.raises(FewShotError, match="exists already"):
        write_lora(adapter(), path)
    assert path.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [path]


def test_without_hard_links(tmp_path: Path, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr("os.link", refuse)
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    assert path.is_file() and list(tmp_path.iterdir()) == [path]


def test_no_half_written_file_stays(tmp_path: Path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FewShotError, match="No space left.*free space"):
        write_lora(adapter(), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_adapters_that_cannot_be_written(tmp_path: Path):
    up, down = pair()
    for factors, words in (
        ({}, "changes no weights"),
        ({UNET: LowRank(up * float("nan"), down, 4.0)}, "not finite"),
        ({UNET: LowRank(up * 1e6, down, 4.0)}, "not finite"),
        ({"unet.strange.module": LowRank(up, down, 4.0)}, "3 of 3 names would not load"),
        ({TEXT.replace("text_encoder.", "text_encoder_2."): LowRank(up, down, 4.0)}, "would not load"),
    ):
        with pytest.raises(FewShotError, match=words):
            write_lora(adapter(factors=factors), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_other_files(tmp_path: Path):
    path = write_lora(adapter(), tmp_path / "a.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FewShotError, match="cut.safetensors is cut short"):
        read_lora(tmp_path / "cut.safetensors")
    safetensors.torch.save_file({"clip_l": torch.ones(1, 4)}, tmp_path / "e.safetensors")
    with pytest.raises(FewShotError, match="e.safetensors: this is a textual-inversion embedding"):
        read_lora(tmp_path / "e.safetensors")


CJK = "猫" * 100


def test_a_name_that_is_too_long_is_called_so(tmp_path: Path):
    for write in (
        lambda path: write_lora(adapter(), path),
        lambda path: write_whole(path, b""),
        lambda path: make_folder(path),
    ):
        with pytest.raises(FewShotError, match="Choose a shorter name: a file's name may take 255 bytes"):
            write(tmp_path / f"{CJK}.safetensors")
    assert list(tmp_path.iterdir()) == []
