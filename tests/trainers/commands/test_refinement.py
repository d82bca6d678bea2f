"""Refinement outside a graph, by one process and by two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from comfyui_fewshot.core.atomic import read_tensors
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.trainers import __main__ as command

from .closeness import assert_the_same_training

SETTINGS = dict(
    steps=4, learning_rate=1e-3, rank=2, prompts_per_round=2, group=4, updates=2, trained_steps=2, sampling_steps=4,
    guidance=1.0, guard_prompts=1, guard_every=2, subject_floor=0.0, diversity_floor=0.0, seed=3, patience=0,
)  # fmt: skip
REFINE = dict(activities=["red", "blue", "at night", "in snow"], rewards={"CLIP-T": {"folder": str(WEIGHTS / "clip")}})


@pytest.fixture
def write_run(tmp_path, base_folder, picture_folder):
    def write(file="run.json", **changes):
        run = dict(
            base=str(base_folder), pictures=str(picture_folder), identifier="sks", noun="ball", settings=SETTINGS,
            refine=REFINE,
        ) | changes  # fmt: skip
        path = tmp_path / file
        path.write_text(json.dumps(run))
        return path

    return write


# What the last bit of a few pixels makes of a reward, where four pictures are rounded otherwise than eight.
FLIPPED = 1e-5
CHANGES = {  # two steps, of one round or of two
    "grpo": {"kl_weight": 0.1},
    "ddpo": {"updates": 1, "statistics_from": 4},
    "nft": {"updates": 1, "learning_rate": 3e-3, "trained_steps": 4},
    "pairs": {},
}


def ended(folder):
    """The states after the first and the second step, the log's lines, and the result."""
    (run,) = folder.iterdir()
    result = json.loads((run / "result.json").read_text())
    first, second = (read_tensors(path)[0] for path in sorted((run / "checkpoints").glob("state_*.safetensors")))
    return first, second, [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()], result


@pytest.mark.parametrize("method", CHANGES)
def test_two_processes_refine_as_one(write_run, tmp_path, one_thread, method):
    """Each draws and learns from half of the pictures; rewards are gathered. Pairs may lie in both."""
    settings = SETTINGS | {"method": method, "steps": 2, "save_every": 1, "log_every": 1} | CHANGES[method]
    alone = write_run("alone.json", runs="alone", settings=settings)
    both = write_run("both.json", runs="both", settings=settings)
    assert command.main([str(alone), "--cpu"]) == 0
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch += " --dynamo_backend no --main_process_port 0 -m comfyui_fewshot.trainers --cpu"
    call = [sys.executable, *launch.split(), str(both)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes compute on cpu" in done.stderr
    one, two = ended(tmp_path / "alone"), ended(tmp_path / "both")
    assert_the_same_training(one[:2], two[:2])
    for mine, theirs in zip(one[2], two[2], strict=True):
        assert mine["terms"]["reward"] == pytest.approx(theirs["terms"]["reward"], abs=FLIPPED)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)
    assert one[3]["chosen"] == two[3]["chosen"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(refine=REFINE | {"rewards": {}}), "names no rewards"),
        (dict(refine=REFINE | {"kind": "live"}), "one of both"),
        (dict(refine={"kind": "alive", "rewards": REFINE["rewards"]}), "did you mean 'live'"),
        (dict(refine=REFINE | {"rewards": {"CLIP-T": {}}}), "CLIP-T has no folder"),
        (dict(refine=REFINE | {"shares": 1}), "did you mean 'share'"),
        (dict(priors={"count": 1}), "no use for"),
        (dict(settings={"prior_weight": 1.0}), "has no setting prior_weight for this training"),
    ],
)
def test_mistakes_are_told(write_run, caplog, changes, message):
    assert command.main([str(write_run(**changes)), "--cpu"]) == 1
    assert message in caplog.text
