"""The gap between chosen and best fixed steps, counted by hand, and presets' rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.benchmarks.subject.checkpoint_choice import gaps_of

TABLES = [{100: 0.2, 200: 0.8, 300: 0.6}, {100: 0.5, 200: 0.5, 300: 0.9}]


def test_the_best_fixed_step_is_best_for_the_mean():
    """300 gives 0.75 on the mean, 200 gives 0.65."""
    assert gaps_of(TABLES, [200, 300]) == pytest.approx([0.6 - 0.8, 0.0])
    assert gaps_of(TABLES, [100, 100]) == pytest.approx([0.4, 0.4])
    assert gaps_of(TABLES, [300, 300]) == [0.0, 0.0]


def test_only_steps_that_all_have_can_be_fixed():
    """A run that ended early has no later steps."""
    assert gaps_of([TABLES[0], {100: 0.5, 200: 0.5}], [200, 200]) == [0.0, 0.0]


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5))
def test_choosing_each_run_s_own_best_is_never_behind(rows):
    tables = [dict(zip((1, 2, 3), row, strict=True)) for row in rows]
    assert all(gap <= 0 for gap in gaps_of(tables, [max(table, key=table.get) for table in tables]))
