"""When a reading of a refinement fails, what ends it, which weights come back, and how a reading is told."""

from __future__ import annotations

import math

import pytest
import torch

from comfyui_fewshot.trainers.distributed import SingleProcess
from comfyui_fewshot.trainers.refine.guards import Floors, GuardedCheckpoint, GuardSchedule, Reading, Readings, line
from comfyui_fewshot.trainers.validation.schedule import read_readings

FLOORS = Floors(0.95, 0.7, 0.97)
PROMPTS = (0, 0, 1, 1)


def every(value: float) -> tuple[float, ...]:
    """The same for each picture, so that the standard error is nought."""
    return (value,) * len(PROMPTS)


def failed(start: float, now: float, axis: str = "subject", floors: Floors = FLOORS) -> bool:
    readings = (Reading(0, (every(0.0),), **{axis: every(start)}), Reading(4, (every(1.0),), **{axis: every(now)}))
    return bool(Readings(readings, (1.0,), PROMPTS, floors).failed(readings[1]))


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_floors_are_shares_of_the_start_whatever_its_sign(size):
    assert not failed(size, 0.96 * size) and failed(size, 0.94 * size)
    assert not failed(-size, -1.04 * size) and failed(-size, -1.06 * size)
    assert not failed(-size, size) and failed(size, 0.96 * size, "held_out")
    assert not failed(size, -size, floors=Floors(subject=0.0))


def test_what_the_start_did_not_see_cannot_fail_and_what_is_no_more_seen_does():
    assert not failed(math.nan, 0.1) and failed(1.0, math.nan)


def test_a_reading_is_told_in_one_line():
    found = line(4, 0.5, {"subject": 0.81234, "held_out": -0.25}, ("subject 0.8 of 0.9 at the start",))
    assert found == (
        "step 4: reward +0.50 deviations, subject 0.812, held-out -0.250, failed: subject 0.8 of 0.9 at the start"
    )
    assert line(4, 0.5, {"standard_error": 0.123, "better": 2}) == (
        "step 4: reward +0.50 deviations (standard error 0.12), step 2 was better"
    )


def course_of(tmp_path, likeness, patience=2, rewards=None, axis="subject"):
    """A course whose readings see these values after 0, 2, 4 ... steps, with a reward that always rises."""
    rewards = rewards or range(len(likeness))
    seen = {2 * i: (r, value) for i, (r, value) in enumerate(zip(rewards, likeness, strict=True))}

    def read(step):
        reward, value = seen[step]
        return Reading(step, (tuple(reward + apart for apart in (0.5, -0.5, 0.5, -0.5)),), **{axis: every(value)})

    last = 2 * (len(likeness) - 1)
    schedule, file = GuardSchedule(2, last, patience, FLOORS), tmp_path / "readings.json"
    return GuardedCheckpoint(read, schedule, {"redness": 1.0}, PROMPTS, file)


def guided(best_checkpoint, parameter, begun=0):
    """The parameter grows by 1 a step; gives the step after which the course is over, else the last one."""
    step = begun
    while True:
        if best_checkpoint.is_due(step):
            best_checkpoint.evaluate(step, {"weight": parameter}, SingleProcess())
        if best_checkpoint.is_over or step == best_checkpoint.last:
            return step
        with torch.no_grad():
            parameter.add_(1.0)
        step += 1


@pytest.mark.parametrize(
    ("axis", "floor"), [("subject", 0.95), ("diversity", 0.7), ("held_out", 0.97)], ids=lambda value: str(value)
)
def test_what_is_lost_ends_the_refinement_and_the_best_of_before_comes_back(tmp_path, axis, floor):
    """Though the reward rises on: two failed readings in a row end it."""
    values = [1.0, 0.99, floor + 0.001, floor - 0.001, 0.99, floor - 0.001, floor - 0.1, 1.0]
    best_checkpoint, parameter = course_of(tmp_path, values, axis=axis), torch.nn.Parameter(torch.zeros(2))
    assert guided(best_checkpoint, parameter) == 12 and best_checkpoint.best_step == 8
    assert best_checkpoint.restore_best(12, {"weight": parameter}) == 8 and parameter.tolist() == [8.0, 8.0]
    kept = read_readings(tmp_path / "readings.json")
    assert kept["best"] == 8 and [bool(row["failed"]) for row in kept["readings"]] == [False] * 3 + [
        True, False, True, True,
    ]  # fmt: skip
    assert [row["gain"] for row in kept["readings"]] == [0, 2, 4, 6, 8, 10, 12]  # in deviations of a half
    assert axis in kept["readings"][-1] and axis.replace("_", "-") in kept["readings"][-1]["failed"][0]


def test_without_patience_it_goes_on_and_what_failed_is_still_not_returned(tmp_path):
    best_checkpoint, parameter = (
        course_of(tmp_path, [1.0, 0.98, 0.5, 0.5, 0.5], patience=0),
        torch.nn.Parameter(torch.zeros(1)),
    )
    assert guided(best_checkpoint, parameter) == 8 and best_checkpoint.restore_best(8, {"weight": parameter}) == 2


def test_where_the_start_is_better_than_all_it_comes_back(tmp_path, caplog):
    best_checkpoint = course_of(tmp_path, [1.0] * 4, rewards=[0.0, -1.0, -0.5, -2.0])
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert guided(best_checkpoint, parameter) == 6 and best_checkpoint.restore_best(6, {"weight": parameter}) == 0
    assert parameter.tolist() == [0.0] and "the refining adapter does nothing" in caplog.text
    rows = read_readings(tmp_path / "readings.json")["readings"]
    assert [row.get("better") for row in rows] == [None, 0, 0, 0]


def test_the_last_one_comes_back_though_pictures_of_an_earlier_one_came_out_better(tmp_path):
    """By less than two standard errors: half of the prompts rose and half fell, a little more."""
    noise = {0: (0.0,) * 4, 2: (1.0, 1.0, -0.5, -0.5), 4: (-0.5, -0.5, 0.4, 0.4)}
    base = (0.5, -0.5, 0.5, -0.5)
    found = GuardedCheckpoint(
        lambda step: Reading(step, (tuple(b + n for b, n in zip(base, noise[step], strict=True)),)),
        GuardSchedule(2, 4, 2), {"redness": 1.0}, PROMPTS, tmp_path / "readings.json",
    )  # fmt: skip
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert guided(found, parameter) == 4 and found.best_step == 4
    first, second = (found.readings.gain(one) for one in found.readings.readings[1:])
    assert (first.mean, first.standard_error) == pytest.approx((0.5, 1.5))  # of 2 and -1, in deviations of a half
    assert (second.mean, second.standard_error) == pytest.approx((-0.1, 0.9))


def test_a_reading_that_could_not_be_taken_counts_as_failed(tmp_path):
    best_checkpoint = course_of(tmp_path, [1.0, 1.0, 1.0], rewards=[0.0, math.nan, 1.0])
    parameter = torch.nn.Parameter(torch.zeros(1))
    assert guided(best_checkpoint, parameter) == 4 and best_checkpoint.best_step == 4
    assert best_checkpoint.readings.failed(best_checkpoint.readings.readings[1]) == ("it could not be taken",)


def test_a_resumed_course_decides_as_the_uncut_one(tmp_path):
    values = [1.0, 0.99, 0.9, 0.9, 1.0]
    cut, parameter = course_of(tmp_path, values), torch.nn.Parameter(torch.zeros(1))
    for step in (0, 2, 4):
        with torch.no_grad():
            parameter.fill_(step)
        cut.evaluate(step, {"weight": parameter}, SingleProcess())
    again = course_of(tmp_path, values)
    again.load(cut.state())
    assert again.readings == cut.readings and again.plain() == cut.plain()
    assert not again.is_over and not again.is_due(4) and again.is_due(6)
    assert (
        guided(again, parameter, 4) == 6 and again.restore_best(6, {"weight": parameter}) == 2 and parameter.item() == 2
    )


def test_a_single_prompt_gives_no_standard_error(tmp_path, caplog):
    schedule = GuardSchedule(2, 2, 2)
    GuardedCheckpoint(lambda step: None, schedule, {"redness": 1.0}, (0, 0), tmp_path / "readings.json")
    assert "a single held-out prompt gives no standard error" in caplog.text
