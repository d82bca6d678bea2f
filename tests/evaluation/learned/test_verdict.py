"""The verdict's arithmetic, by numbers whose shares are known, and what each finding says."""

from __future__ import annotations

import math

import pytest

from comfyui_fewshot.core.values import Adapter, LowRank
from comfyui_fewshot.evaluation.learned import refined, related, words
from comfyui_fewshot.evaluation.learned.measure import ColumnScores, Measurement
from comfyui_fewshot.evaluation.learned.refined import verdict_of_refinement
from comfyui_fewshot.evaluation.learned.related import verdict_of_relation
from comfyui_fewshot.evaluation.learned.size import PER_PICTURE, CheckSize, check_size
from comfyui_fewshot.evaluation.learned.verdict import (
    COPIED,
    IGNORES,
    LEARNED,
    NOTHING,
    Share,
    best_column,
    share,
    shares_of,
)
from comfyui_fewshot.evaluation.learned.words import verdict_of

WOBBLE = (-0.01, 0.01, 0.0, 0.0)  # over four prompts
UNRELATED = 0.1


def column(name, strength, subject=None, margin=0.2, alike=0.3):
    """Four prompts around these means; `margin` is how much better a picture fits its own prompt than the others."""
    return ColumnScores(
        name,
        strength,
        () if subject is None else tuple(subject + w for w in WOBBLE),
        tuple(UNRELATED + margin + w for w in WOBBLE),
        (UNRELATED,) * 4,
        (alike,) * 4,
    )


def measured(*columns, ceiling=0.9, floor=0.5):
    prompts = tuple("abcd")
    return Measurement(prompts, (column("base", 1.0, floor), *columns), ceiling, "a CLIP")


def test_a_share_is_the_mean_of_paired_differences_over_the_room():
    """Differences 1, 2, 3, 4: mean 2.5, standard error sqrt(5/3)/2."""
    found = share([1.0, 2.0, 3.0, 4.0], 5.0)
    assert found.value == pytest.approx(0.5)
    assert found.error == pytest.approx(math.sqrt(5 / 3) / 2 / 5)
    assert found.sure == (0.5 > 2 * found.error)
    assert math.isnan(share([1.0, 2.0], 0.0).value) and not share([1.0, 2.0], 0.0).sure


def test_likeness_is_the_share_of_the_room_between_class_and_references():
    shares = shares_of(m := measured(column("1", 1.0, 0.7, margin=0.15, alike=0.6)), m.columns[1])
    assert shares.likeness.value == pytest.approx(0.2 / 0.4)
    assert shares.prompts.value == pytest.approx(0.15 / 0.2)
    assert shares.sameness.value == pytest.approx(0.3 / 0.6)


@pytest.mark.parametrize(
    ("subject", "margin", "alike", "finding"),
    [
        (0.7, 0.15, 0.6, LEARNED),
        (0.52, 0.2, 0.3, NOTHING),  # a twentieth of the room
        (0.95, 0.02, 0.95, COPIED),
        (0.8, 0.02, 0.95, COPIED),  # of another place, but always the same picture
        (0.8, 0.02, 0.5, IGNORES),
        (0.3, 0.02, 0.3, IGNORES),  # broken: neither subject nor prompt
        (0.95, 0.2, 0.6, LEARNED),  # as like as the references, where prompts ask for it
    ],
)
def test_findings(subject, margin, alike, finding):
    verdict = verdict_of(measured(column("1", 1.0, subject, margin, alike)))
    assert verdict.finding == finding and verdict.lines[0].startswith(words.TITLES[finding])
    assert (words.ADVICE.get(finding) in verdict.lines) == (finding != LEARNED)
    assert verdict.good == (finding == LEARNED)


def test_a_gain_within_two_standard_errors_is_none():
    """Half of the room on the mean, by one prompt of four."""
    loud = ColumnScores("1", 1.0, (0.5, 0.5, 0.5, 1.3), (0.3,) * 4, (0.1,) * 4, (0.3,) * 4)
    quiet = Measurement(tuple("abcd"), (column("base", 1.0, 0.5), loud), 0.9, "a CLIP")
    assert shares_of(quiet, loud).likeness.value == pytest.approx(0.5)
    assert verdict_of(quiet).finding == NOTHING


def test_pictures_of_no_one_subject_leave_no_room():
    """They are as like each other as the base's pictures of the class are like them."""
    verdict = verdict_of(measured(column("1", 1.0, 0.7), ceiling=0.5))
    assert verdict.finding == NOTHING and words.NO_ROOM in verdict.lines and "nan" not in verdict.lines[0]


def test_the_best_strength_is_where_both_are_best():
    strengths = (column("0.6", 0.6, 0.75, 0.18), column("1", 1.0, 0.8, 0.04), column("1.2", 1.2, 0.85, 0.0))
    verdict = verdict_of(measured(*strengths))
    assert verdict.finding == IGNORES and verdict.best == 0.6
    assert any("best at strength 0.6" in line and "until then use it there" in line for line in verdict.lines)
    assert best_column(measured(column("1", 1.0, 0.4))) is None


def test_one_picture_has_no_ceiling():
    verdict = verdict_of(measured(column("1", 1.0, 0.75), ceiling=None))
    assert verdict.finding == LEARNED and words.NO_CEILING in verdict.lines
    assert "50 %" in verdict.lines[0]  # of the way from 0.5 to 1


def test_a_clip_that_tells_no_prompts_apart_judges_no_prompts():
    blind = Measurement(
        tuple("abcd"), (column("base", 1.0, 0.5, margin=0.0), column("1", 1.0, 0.8, margin=0.0)), 0.9, "a CLIP"
    )
    verdict = verdict_of(blind)
    assert verdict.finding == LEARNED and words.UNREAD in verdict.lines


# ------------------------------------------------------------------------------------------------- other trainings


def refinement(before, after):
    return verdict_of_refinement(measured(column("before", 1.0, *before), column("after", 1.0, *after)))


def test_a_refinement_gains_prompts_and_keeps_likeness():
    """From 0.1 to 0.16 of the base's 0.2 is 30 %."""
    verdict = refinement((0.8, 0.1), (0.8, 0.16))
    assert verdict.finding == LEARNED and "+30 %" in verdict.lines[0]
    assert refinement((0.8, 0.1), (0.8, 0.1)).finding == NOTHING
    lost = refinement((0.8, 0.1), (0.7, 0.16))  # a quarter of the room
    assert lost.finding == refined.LOST and "-25 %" in lost.lines[0]


def test_a_refinement_without_pictures_says_so():
    rows = [column(name, 1.0, None, margin) for name, margin in (("base", 0.2), ("before", 0.1), ("after", 0.18))]
    verdict = verdict_of_refinement(Measurement(tuple("abcd"), tuple(rows), None, "a CLIP"))
    assert verdict.finding == LEARNED and refined.UNSEEN in verdict.lines


def test_a_relation_is_judged_by_its_error_and_its_prompts():
    def verdict(margin, gain):
        rows = (column("base", 1.0), column("word", 1.0, None, margin))
        return verdict_of_relation(Measurement(tuple("abcd"), rows, None, "a CLIP"), gain)

    assert verdict(0.18, Share(0.05, 0.01)).finding == LEARNED
    assert verdict(0.18, Share(0.01, 0.01)).finding == NOTHING
    assert verdict(0.05, Share(0.05, 0.01)).finding == IGNORES
    unknown = verdict(0.18, None)
    assert unknown.lines[0].startswith("Did it learn? Not known.") and related.UNMEASURED in unknown.lines


# ------------------------------------------------------------------------------------------------------------ cost


def test_the_check_costs_a_quarter_or_four_prompts_at_two_strengths():
    import torch

    adapter = Adapter({"a": LowRank(torch.ones(2, 1), torch.ones(1, 2), 1.0)}, "sd1", "sks cat")
    word = Adapter({}, "sd1", "sks cat")
    assert check_size(0, adapter) == CheckSize(4, (0.6, 1.0))
    assert check_size(4 * 20 * PER_PICTURE, adapter) == CheckSize(4, (0.6, 0.8, 1.0, 1.2))
    assert check_size(4 * 42 * PER_PICTURE, adapter) == CheckSize(8, (0.6, 0.8, 1.0, 1.2))
    assert check_size(10**9, adapter) == CheckSize(12, (0.6, 0.8, 1.0, 1.2))
    assert check_size(4 * 20 * PER_PICTURE, word) == CheckSize(10, (1.0,)) == check_size(4 * 20 * PER_PICTURE, None)
    assert check_size(4 * 42 * PER_PICTURE, adapter).evaluations <= 42 * PER_PICTURE
