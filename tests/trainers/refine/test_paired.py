"""Paired differences and their standard errors, against closed forms and against what chance does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from comfyui_fewshot.trainers.refine.paired import PairedDifference, paired_difference

PROMPTS = (0, 0, 1, 1, 2, 2, 3, 3)


def rows_of(*rows):
    return torch.tensor(np.array(rows), dtype=torch.float64)


def test_one_row_has_the_standard_error_of_its_prompts_means():
    row = np.random.default_rng(0).normal(size=8)
    means = row.reshape(4, 2).mean(1)
    found = paired_difference(rows_of(row), PROMPTS, [3.0])
    assert found.mean == pytest.approx(3 * row.mean())
    assert found.standard_error == pytest.approx(3 * stats.sem(means))  # of clusters, n - 1 within
    shuffled = np.random.default_rng(1).permutation(8)
    again = paired_difference(rows_of(row[shuffled]), np.array(PROMPTS)[shuffled].tolist(), [3.0])
    assert (again.mean, again.standard_error) == pytest.approx((found.mean, found.standard_error))


def test_rows_are_added_up_before_their_standard_error_is_taken():
    """So that two rewards that rise and fall together are not taken for independent ones."""
    first, second = np.random.default_rng(2).normal(size=(2, 8))
    both = paired_difference(rows_of(first, second), PROMPTS, [1.0, 0.5])
    summed = paired_difference(rows_of(first + 0.5 * second), PROMPTS, [1.0])
    assert (both.mean, both.standard_error) == pytest.approx((summed.mean, summed.standard_error))
    against = paired_difference(rows_of(first, -2 * first + 1), PROMPTS, [1.0, 0.5])
    assert (against.mean, against.standard_error) == pytest.approx((0.5, 0.0), abs=1e-12)


def test_rows_that_apply_to_some_prompts_count_those():
    row = np.random.default_rng(3).normal(size=8)
    named = np.where(np.arange(8) < 6, row, np.nan)
    found = paired_difference(rows_of(named), PROMPTS, [1.0])
    assert found.mean == pytest.approx(row[:6].mean())
    assert found.standard_error == pytest.approx(stats.sem(row[:6].reshape(3, 2).mean(1)))
    unseen = paired_difference(rows_of(row, np.full(8, np.nan)), PROMPTS, [1.0, 5.0])
    assert unseen == paired_difference(rows_of(row), PROMPTS, [1.0])


def test_what_one_prompt_tells_has_no_standard_error_and_never_fell():
    alone = paired_difference(rows_of([-1.0, -2.0]), (0, 0), [1.0])
    assert alone == PairedDifference(-1.5, math.inf) and not alone.fell
    nothing = paired_difference(rows_of([math.nan, math.nan]), (0, 1), [1.0])
    assert math.isnan(nothing.mean) and not nothing.fell


@pytest.mark.parametrize("prompts", [3, 5, 16])
def test_by_chance_it_fell_as_often_as_students_t_says(prompts):
    """Prompts differ in what changes and so do pictures of one: neither makes a false alarm more frequent."""
    random, draws, pictures = np.random.default_rng(prompts), 3000, 4
    groups = np.repeat(np.arange(prompts), pictures)
    fell = 0
    for _ in range(draws):
        row = random.normal(size=prompts)[groups] + 0.7 * random.normal(size=len(groups))
        fell += paired_difference(rows_of(row), groups.tolist(), [1.0]).fell
    expected = stats.t.cdf(-2, prompts - 1)
    assert abs(fell / draws - expected) < 4 * math.sqrt(expected / draws)
