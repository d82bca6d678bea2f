"""The rule that chooses a checkpoint: its closed form, its limits, and what must hold for any curve."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.evaluation.selection import Anchors, Curve, Point, harmonic

START = Point(0, subject=0.5, prompt=0.30, unrelated=0.20)
ANCHORS = Anchors(START, likeness=0.9)


def curve(*fidelities, likeness=0.9):
    points = [Point(10 * (i + 1), subject, prompt, 0.2) for i, (subject, prompt) in enumerate(fidelities)]
    return Curve((START, *points), likeness)


def test_the_score_is_the_harmonic_mean_of_two_shares():
    point = Point(10, subject=0.7, prompt=0.28, unrelated=0.2)
    assert ANCHORS.subject_gain(point) == pytest.approx(0.2 / 0.4) and ANCHORS.prompt_retention(point) == pytest.approx(
        0.08 / 0.10
    )
    assert ANCHORS.score(point) == pytest.approx(2 * 0.5 * 0.8 / 1.3)


def test_limits():
    assert ANCHORS.score(START) == 0.0  # nothing was gained
    assert ANCHORS.score(Point(9, 0.9, 0.3, 0.2)) == pytest.approx(1.0)  # all of both
    assert ANCHORS.score(Point(9, 0.9, 0.2, 0.2)) == pytest.approx(0.0)  # the prompt is forgotten
    assert ANCHORS.score(Point(9, 0.9, 0.1, 0.2)) < 0 > ANCHORS.score(Point(9, 0.4, 0.3, 0.2))
    assert ANCHORS.score(Point(9, math.nan, 0.3, 0.2)) == -math.inf


def test_anchors_that_lie_together_divide_by_no_zero():
    """One picture twice, or a model that tells nothing apart."""
    flat = Anchors(Point(0, 0.9, 0.2, 0.2), likeness=0.9)
    assert flat.subject_gain(Point(1, 0.901, 0.2, 0.2)) == pytest.approx(0.1)
    assert flat.prompt_retention(Point(1, 0.9, 0.205, 0.2)) == pytest.approx(0.5)


def test_the_knee_wins():
    """Likeness first, then the prompt goes: neither the most like nor the most obedient point is chosen."""
    found = curve((0.55, 0.30), (0.75, 0.29), (0.85, 0.23), (0.89, 0.205))
    assert found.best == found.points[2]
    assert found.frontier == found.points[1:]


def test_the_earliest_of_equals_wins():
    found = curve((0.7, 0.28), (0.7, 0.28))
    assert found.best.step == 10


def test_a_point_that_failed_is_never_chosen():
    found = curve((0.6, 0.28), (math.nan, 0.28), (0.7, math.inf))
    assert found.best.step == 10 and found.frontier == (found.points[1],)


def test_without_any_gain_there_is_no_best():
    assert curve((0.5, 0.3), (0.4, 0.3)).best is None and not curve((0.5, 0.3), (0.4, 0.3)).is_over(1)
    assert Curve(()).best is None and Curve((START,)).best is None
    failed = Curve((Point(0, math.nan, 0.3, 0.2), Point(10, 0.7, 0.3, 0.2)))
    assert failed.best is None and all(map(math.isnan, failed.scores))


def test_patience_counts_validations_without_a_better_one():
    rising, falling = [(0.6, 0.29), (0.8, 0.29)], [(0.8, 0.25), (0.8, 0.24), (0.8, 0.23)]
    assert not curve(*rising).is_over(1)
    assert curve(*rising, *falling[:1]).is_over(1) and not curve(*rising, *falling[:1]).is_over(2)
    assert curve(*rising, *falling).is_over(3) and not curve(*rising, *falling).is_over(4)
    assert not curve(*rising, *falling).is_over(0)


cosines = st.floats(-1, 1)
points = st.lists(st.tuples(cosines, cosines), min_size=1, max_size=12)


@given(points)
def test_the_best_point_is_on_the_frontier(fidelities):
    found = curve(*fidelities)
    assert found.best is None or any(
        (p.subject, p.prompt) == (found.best.subject, found.best.prompt) for p in found.frontier
    )


@given(points, points)
def test_later_points_change_no_score_and_only_a_better_one_takes_over(first, more):
    short, long = curve(*first), curve(*first, *more)
    assert long.scores[: len(short.scores)] == short.scores
    if short.best is not None and long.best != short.best:
        assert long.best.step > short.best.step
        gain = long.scores[long.points.index(long.best)] - short.scores[short.points.index(short.best)]
        assert gain > -1e-9  # but for rounding


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 2), st.floats(0, 2))
def test_the_score_never_falls_when_a_fidelity_rises(f, p, more_f, more_p):
    assert harmonic(f + more_f, p + more_p) >= harmonic(f, p) - 1e-12
    assert harmonic(f, p) == harmonic(p, f) <= max(f, p, 0.0) + 1e-12


@given(points, st.floats(0.1, 3), st.floats(-0.2, 0.2))
def test_another_scale_of_the_model_chooses_the_same(fidelities, factor, shift):
    """CLIPs differ in where their cosines lie; the anchors take that out."""
    found = curve(*fidelities)

    def moved(point):
        return Point(point.step, *(factor * v + shift for v in (point.subject, point.prompt, point.unrelated)))

    other = Curve(tuple(map(moved, found.points)), factor * found.likeness + shift)
    assert other.scores == pytest.approx(found.scores, abs=1e-6)


@given(points, st.integers(1, 6))
def test_a_longer_patience_never_ends_sooner(fidelities, patience):
    found = curve(*fidelities)
    assert not found.is_over(patience + 1) or found.is_over(patience)
