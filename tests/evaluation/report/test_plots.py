"""The loss curve: right averages, gaps where there is no number, and no global state."""

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.evaluation.report import plots
from comfyui_fewshot.evaluation.report.plots import DARK, loss_curve, smoothed


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.floats(1, 50))
def test_the_average_lies_among_the_values(values, window):
    means = smoothed(values, window)
    assert len(means) == len(values) and means[0] == pytest.approx(values[0])
    assert all(min(values) - 1e-6 <= mean <= max(values) + 1e-6 for mean in means)


def test_the_average_of_a_constant_has_no_bias():
    assert smoothed([0.3] * 50, 10) == pytest.approx([0.3] * 50)
    assert smoothed([1.0, math.nan, 1.0], 5) == pytest.approx([1.0] * 3)
    assert math.isnan(smoothed([math.nan, 1.0], 5)[0])


def test_curves():
    assert loss_curve([0.5, 0.4, 0.3], "loss").size == (840, 420)
    several = loss_curve({"reference": [0.5] * 40, "prior": [0.2] * 40, "absent": []})
    assert several.size == (840, 420) and several.mode == "RGB"
    assert loss_curve([1.0, math.nan, math.inf, 0.5], theme=DARK).getpixel((0, 0)) == (0x1D, 0x20, 0x26)
    assert loss_curve([0.1]).size == (840, 420)
    assert "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize("losses", [[], {}, {"reference": []}])
def test_nothing_to_draw(losses):
    with pytest.raises(FewShotError, match="train at least one step"):
        loss_curve(losses)


def test_names_of_points_in_one_place_can_all_be_read():
    """As many as a sweep has strengths; long ones at the edge stay inside the picture."""
    points = [(f"{n / 10:g}", 0.5, 0.5 + n / 1e5) for n in range(1, 9)] + [("a long name of an adapter", 0.9, 0.9)]
    figure, axes = plots._figure((840, 560), plots.LIGHT)
    axes.scatter([p[1] for p in points], [p[2] for p in points])
    plots._name_points(figure, axes, points, plots.LIGHT)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [name for name, _, _ in points]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert all(box.x0 >= 0 and box.x1 <= 840 for box in boxes)
