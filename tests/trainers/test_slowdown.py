"""Steps that suddenly become slow are told of, once, and nothing else is."""

from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.trainers.health import SLOWDOWN, SlowdownDetector


def told(times):
    pace = SlowdownDetector()
    return [line for line in map(pace.observe, times) if line]


def test_a_sudden_slowdown_is_told_once():
    (line,) = told([3.0, 0.5, 0.5, 0.5, 20.0, 20.0, 0.5, 20.0])
    assert "takes 20.00 s, 40 times as long as before (0.50 s)" in line and "micro_batch to 1" in line


def test_the_warm_up_is_not_the_usual_time():
    assert told([9.0, 0.5, 0.5, 3.0]) and not told([0.01, 0.5, 0.5, 0.6])


@given(st.lists(st.floats(1.0, SLOWDOWN), max_size=40))
def test_ordinary_swings_are_not_told(times):
    assert not told(times)
