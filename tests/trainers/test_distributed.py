"""Several processes compute one run together; accelerate leaves nothing behind."""

import json
import logging
import os
import subprocess
import sys

import pytest
import torch

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.trainers import __main__ as command
from comfyui_fewshot.trainers.distributed import SingleProcess, launched
from comfyui_fewshot.trainers.state.run_folder import read_adapter

VALUES = dict(steps=4, learning_rate=1e-3, rank=4, batch_size=2, save_every=2, seed=5, parameter_set="attention")


@pytest.fixture
def write_run(tmp_path, base_folder, picture_folder):
    """Writes a run's JSON file; keywords replace entries."""

    def write(file="run.json", **changes):
        run = dict(base=str(base_folder), pictures=str(picture_folder), identifier="sks", noun="ball", settings=VALUES)
        path = tmp_path / file
        path.write_text(json.dumps({key: value for key, value in (run | changes).items() if value is not None}))
        return path

    return write


def adapter_under(folder):
    (path,) = folder.rglob("adapter.safetensors")
    return read_adapter(path)


def test_one_process_shares_nothing():
    assert SingleProcess().shard(range(3)) == [0, 1, 2] and SingleProcess().main


def test_accelerate_leaves_nothing_behind():
    from accelerate.state import AcceleratorState, GradientState, PartialState

    environment = dict(os.environ)
    with launched(cpu=True) as processes:
        assert processes.main and processes.shard(range(3)) == [0, 1, 2]
        assert processes.device.type == "cpu"
        buffer = torch.ones(2)
        processes.all_reduce(buffer)
        processes.barrier()
        assert buffer.tolist() == [1, 1]
    assert dict(os.environ) == environment
    assert not (AcceleratorState._shared_state or PartialState._shared_state or GradientState._shared_state)


def test_the_command_trains_with_priors(write_run, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = write_run(priors=dict(count=2, steps=2), name="toy", settings=VALUES | {"steps": 2})
    assert command.main([str(path), "--cpu"]) == 0
    assert "trigger: sks ball" in caplog.text
    (result,) = tmp_path.rglob("result.json")
    assert set(json.loads(result.read_text())["terms"]) == {"reference", "prior", "local"}  # its pictures have masks
    assert result.parent.parent == tmp_path / "runs" and (result.parent / "toy.safetensors").exists()


@pytest.mark.parametrize(("rank", "ends"), [(0, ["toy_model"]), (2, ["toy", "toy_model"])])
def test_the_command_names_the_files_that_are_there(write_run, tmp_path, caplog, rank, ends):
    """A base tuned in full is a checkpoint, and leaves a LoRA only where one is extracted."""
    caplog.set_level(logging.INFO)
    chosen = dict(steps=1, learning_rate=1e-3, batch_size=1, parameter_set="all", tuning="full", extract_rank=rank)
    assert command.main([str(write_run(name="toy", settings=chosen)), "--cpu"]) == 0
    (line,) = (said for said in caplog.messages if said.startswith("what was learned is"))
    (folder,) = (tmp_path / "runs").iterdir()
    files = [folder / f"{end}.safetensors" for end in ends]
    assert line == f"what was learned is {' and '.join(map(str, files))}, its trigger: sks ball"
    assert sorted(folder.glob("*.safetensors")) == sorted(files)


def test_two_processes_give_what_one_gives(write_run, tmp_path, one_thread):
    """One of the two samples of a step in each process, over gloo; all layers that are trained by default.

    In one process that sees them one by one too it is the same bit for bit; where it sees both at once its products
    are rounded otherwise, which Adam enlarges where gradients are near zero.
    """
    values = {name: value for name, value in VALUES.items() if name != "parameter_set"} | {"learning_rate": 5e-4}
    for folder, changes in (("alone", {}), ("singly", {"micro_batch": 1})):
        path = write_run(f"{folder}.json", runs=folder, settings=values | changes)
        assert command.main([str(path), "--cpu"]) == 0
    both = write_run("both.json", runs="both", settings=values)
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 -m comfyui_fewshot.trainers --cpu"
    known = os.environ | {"OMP_NUM_THREADS": "1"}
    call = [sys.executable, *launch.split(), str(both)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, env=known)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes compute on cpu" in done.stderr
    alone, singly, two = (adapter_under(tmp_path / folder) for folder in ("alone", "singly", "both"))
    assert {"ff", "attn1", "attn2"} <= {part for name in two.factors for part in name.split(".")}
    for name, factor in two.factors.items():
        assert factor.up.abs().max() > 1e-4, name
        assert torch.equal(factor.up, singly.factors[name].up) and torch.equal(factor.down, singly.factors[name].down)
        assert (factor.up - alone.factors[name].up).abs().max() <= 1e-5, name
        assert (factor.down - alone.factors[name].down).abs().max() <= 1e-5, name
    lines = [json.loads(line) for line in next((tmp_path / "both").rglob("log.jsonl")).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(noun=None), "lacks noun"),
        (dict(setings={}), "there is no entry 'setings'; did you mean 'settings'"),
        (dict(settings=dict(stepz=1)), "did you mean 'steps'"),
        (dict(priors=dict(cuont=1)), "there is no entry of priors 'cuont'; did you mean 'count'"),
        (dict(priors=dict(count="many")), "priors: count is 'many'; give a number"),
        (dict(priors=dict(count=True)), "priors: count is True; give a number"),
        (dict(priors=dict(prompts="a cat")), "prompts is 'a cat'; give a list of texts"),
        (dict(priors=4), "priors is 4, and shall be an object in braces"),
        (dict(pictures=["a", "b"]), 'pictures is ["a", "b"], and shall be text in quotes'),
        (dict(clip_skip="2"), 'clip_skip is "2", and shall be a whole number'),
        (dict(refine=dict(activities="to swim")), "activities is 'to swim'; give a list of texts"),
        (dict(refine=dict(activities=["to swim"], share="half")), "share is 'half'; give a number"),
        (dict(refine=dict(activities=["to swim"], rewards={"CLIP-T": "clip"})), "the reward CLIP-T is 'clip'; write"),
        (dict(refine=dict(activities=["to swim"], rewards={"DINO": {"folder": "d", "weight": "1"}})), "is '1'; give a"),
        (dict(base="nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told(write_run, caplog, changes, message):
    assert command.main([str(write_run(**changes)), "--cpu"]) == 1
    assert message in caplog.text


def test_a_file_that_is_no_run(tmp_path):
    with pytest.raises(FewShotError, match="cannot read .*none.json"):
        command.read_run(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FewShotError, match="holds a list"):
        command.read_run(tmp_path / "list.json")


def test_an_interrupt_is_told(write_run, monkeypatch, caplog):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "train_run", interrupted)
    assert command.main([str(write_run()), "--cpu"]) == 130
    assert "goes on from there" in caplog.text


def test_the_command_validates(write_run, caplog, tmp_path):
    dino_alone = write_run(validation_dino="dino")
    assert command.main([str(dino_alone), "--cpu"]) == 1
    assert "names a DINO to validate with, which reads no prompts: name validation_clip too" in caplog.text
    (tmp_path / "empty").mkdir()
    assert command.main([str(write_run(validation_clip="empty")), "--cpu"]) == 1
    assert "there is no CLIP in" in caplog.text
