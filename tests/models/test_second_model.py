"""The model contract by a second implementation: transformers of ComfyUI's, which learn a flow, through the engine.

Everything is computed by `second_model.probe`, in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROBE = "comfyui_fewshot.tests.models.second_model.probe"
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def reports(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    job = tmp_path_factory.mktemp("second_model")
    order = [sys.executable, "-m", PROBE, str(comfyui_path), str(job)]
    done = subprocess.run(order, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((job / "report.json").read_text())


@pytest.fixture(params=["ZImage", "Flux2"])
def report(reports: dict[str, dict], request: pytest.FixtureRequest) -> dict:
    return reports[request.param]


def test_rows_of_one_length_share_a_call(report: dict):
    """References and priors together, and rows of other lengths in calls of their own."""
    calls = dict((length, rows) for rows, length in report["calls"])
    assert len(calls) == len(report["calls"]) and len(calls) > 1 and max(calls.values()) > 1
    assert calls == {length: report["lengths"].count(length) for length in report["lengths"]}


def test_every_linear_layer_is_trained(report: dict):
    assert report["lora"][0] == report["linear"] > 20 and not report["unmoved"]


def test_losses_are_those_of_single_rows(report: dict):
    """By the plain formula on what ComfyUI's `apply_model` gives for each row, with the trained layers on."""
    assert set(report["rows"]) == set(report["terms"]) == {"reference", "prior"}
    for engine, alone in report["rows"].values():
        assert engine == pytest.approx(alone, rel=ROUNDING)
    assert all(0 < loss < 10 for losses in report["terms"].values() for loss in losses)


def test_the_order_of_rows_changes_nothing(report: dict):
    """Gradients of rows in another order, in two parts, and one by one; and pictures drawn in a batch and alone."""
    assert report["orders"] < ROUNDING and report["drawn"] < ROUNDING


def test_a_cut_run_ends_as_the_uncut_one(report: dict):
    assert report["resumed"] == {"cut": True, "from": 2, "same": True}


def test_the_base_is_there_beneath_and_comes_back(report: dict):
    assert report["consistency"] > 0.01 and report["back"]


def test_comfyui_takes_every_pair(report: dict):
    pairs, taken = report["lora"]
    assert pairs == taken
