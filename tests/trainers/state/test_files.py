"""Files are whole or not there: states, logs, adapters, folders."""

import errno
import json
import os
import shutil

import pytest
import torch

from comfyui_fewshot.core import atomic
from comfyui_fewshot.core.atomic import read_tensors, write_tensors, write_whole
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Adapter, Dense, LowRank
from comfyui_fewshot.trainers.state.checkpoint import Checkpoints, State
from comfyui_fewshot.trainers.state.run_folder import Journal, find_run, open_run, read_adapter, write_adapter


def state(step: int, value: float = 0.0) -> State:
    weights = {"unet.a": torch.full((2, 3), value)}
    slots = {"unet.a": {"exp_avg": torch.ones(2, 3), "step": torch.tensor(float(step))}}
    return State(step, weights, slots, {"reference": torch.arange(float(step))}, {"scale": 2.0}, 1.5)


def test_a_state_comes_back_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "folder", "key")
    assert checkpoints.latest() is None
    checkpoints.save(state(3, 0.1))
    back = checkpoints.latest()
    assert (back.step, back.seconds, back.extra) == (3, 1.5, {"scale": 2.0})
    assert torch.equal(back.weights["unet.a"], torch.full((2, 3), 0.1))
    assert back.slots["unet.a"]["step"].shape == () and back.slots["unet.a"]["step"].item() == 3
    assert torch.equal(back.losses["reference"], torch.arange(3.0))


def test_the_two_newest_states_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    for step in (1, 2, 3, 11):
        checkpoints.save(state(step))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "state_00000003.safetensors",
        "state_00000011.safetensors",
    ]
    assert checkpoints.latest().step == 11


@pytest.mark.parametrize("harm", ["cut", "flip", "empty"])
def test_a_broken_state_falls_back_to_the_one_before(tmp_path, harm, caplog):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(state(1))
    newest = checkpoints.save(state(2))
    data = bytearray(newest.read_bytes())
    if harm == "flip":
        data[-1] ^= 1
    newest.write_bytes({"cut": data[:-9], "flip": data, "empty": b""}[harm])
    assert checkpoints.latest().step == 1
    assert newest.name in caplog.text


def test_a_state_of_another_run_is_left_alone(tmp_path):
    Checkpoints(tmp_path, "one").save(state(1))
    assert Checkpoints(tmp_path, "other").latest() is None


def fail(number):
    def write(*_, **__):
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_state(tmp_path, monkeypatch, broken):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(state(1))
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, broken, fail(errno.ENOSPC))
        with pytest.raises(FewShotError, match="could not write .*No space left on device.*Free space"):
            checkpoints.save(state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["state_00000001.safetensors"]
    assert checkpoints.latest().step == 1


def test_a_killed_writers_draft_is_removed(tmp_path):
    (tmp_path / ".state_00000005.safetensors.77.draft").write_bytes(b"half")
    Checkpoints(tmp_path, "key").tidy()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FewShotError, match="could not make the folder .*Choose one that can be written"):
        open_run(tmp_path / "file" / "runs", "subject", "k" * 64, {})
    with pytest.raises(FewShotError, match="could not write"):
        write_whole(tmp_path / "file" / "x", b"")


def test_tensors_are_checked(tmp_path):
    path = write_tensors(tmp_path / "t.safetensors", {"a": torch.arange(6).view(2, 3).t()}, {"b": "c"})
    tensors, metadata = read_tensors(path)
    assert torch.equal(tensors["a"], torch.arange(6).view(2, 3).t()) and metadata["b"] == "c"
    with pytest.raises(FewShotError, match="cannot read .*none.safetensors"):
        read_tensors(tmp_path / "none.safetensors")


def test_an_adapter_comes_back_as_it_was(tmp_path):
    factors = {
        "unet.a": LowRank(torch.randn(4, 2), torch.randn(2, 3), 1.5),
        "unet.b": LowRank(torch.randn(4, 2, 1, 1), torch.randn(2, 3, 1, 1), 2.0, mid=torch.randn(2, 2, 3, 3)),
        "unet.c": Dense(torch.randn(4, 3), torch.randn(4)),
    }
    given = Adapter(factors, "sd1", "sks ball", {"sks": {"clip_l": torch.randn(1, 8)}}, {"ss_seed": "1"})
    back = read_adapter(write_adapter(tmp_path / "a" / "adapter.safetensors", given))
    assert back.key == given.key and dict(back.metadata) == dict(given.metadata)


def test_the_journal_is_cut_to_a_step(tmp_path):
    journal = Journal(tmp_path / "log.jsonl")
    journal.cut(0)
    for step in (2, 4, 6):
        journal.add(step=step, loss=0.5)
    with open(journal.path, "a") as file:
        file.write('{"step": 8, "lo')
    journal.cut(4)
    assert [json.loads(line)["step"] for line in journal.path.read_text().splitlines()] == [2, 4]


def test_runs_are_found_by_key(tmp_path):
    key = "ab" * 32
    run = open_run(tmp_path, "one", key, {"a": 1})
    assert run.folder.name == "one_abababababab" and run.name == "one"
    assert open_run(tmp_path, "two", key, {}).folder == run.folder
    assert find_run(tmp_path, "ab" * 6 + "cd" * 26) is None
    (run.folder / "settings.json").write_text("{")
    assert find_run(tmp_path, key) is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", "a\\b", "/etc"])
def test_names_with_folders_are_refused(tmp_path, name):
    with pytest.raises(FewShotError, match="a run cannot be named"):
        open_run(tmp_path, name, "ab" * 32, {})
    assert not list(tmp_path.iterdir())


def test_too_little_space_is_told_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=60_000_000))
    with pytest.raises(FewShotError, match="only 60 MB are free .* writes about 70 MB"):
        open_run(tmp_path, "one", "ab" * 32, {}, needed=20_000_000)
    assert open_run(tmp_path, "one", "ab" * 32, {}, needed=1_000_000)
