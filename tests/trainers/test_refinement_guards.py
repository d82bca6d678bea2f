"""When a reading of a refinement fails, and how it is told."""

from __future__ import annotations

import math

import pytest

from comfyui_fewshot.trainers.refinement_guards import Floors, Reading, Readings, line

FLOORS = Floors(0.95, 0.7, 0.97)


def failed(start: float, now: float, axis: str = "subject") -> bool:
    readings = (Reading(0, (0.0,), **{axis: start}), Reading(4, (1.0,), **{axis: now}))
    return bool(Readings(readings, (1.0,), (1.0,), FLOORS).failed(readings[1]))


@pytest.mark.parametrize("size", [1.0, 0.01])
def test_floors_are_shares_of_the_start_whatever_its_sign(size):
    assert not failed(size, 0.96 * size) and failed(size, 0.94 * size)
    assert not failed(-size, -1.04 * size) and failed(-size, -1.06 * size)
    assert not failed(-size, size) and failed(size, 0.96 * size, "held_out")
    assert not failed(math.nan, 0.1) and not failed(size, math.nan)


def test_a_reading_is_told_in_one_line():
    found = line(4, 0.5, {"subject": 0.81234, "held_out": -0.25}, ("subject 0.8 of 0.9 at the start",))
    assert found == (
        "step 4: reward +0.50 deviations, subject 0.812, held-out -0.250, failed: subject 0.8 of 0.9 at the start"
    )
