"""The bench of augmentation at its quick size."""

from __future__ import annotations

import pytest

from comfyui_fewshot.benchmarks import _augment_pictures, augment, names
from comfyui_fewshot.pocket.assemble import random_folder


def test_the_rows_on_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(_augment_pictures.assemble, "WEIGHTS", random_folder(tmp_path / "base"))
    found = {row.name: row for row in _augment_pictures.rows(True)}
    assert found["paste.mask_iou"].value == 1.0 and found["paste.mask_iou"].n > 40
    assert found["paste.per_minute"].value > 300 and found["paste.per_minute"].goal is None
    assert found["priors.second_run_evaluations"].value == 0 and found["priors.second_run_evaluations"].met


def test_a_void_row_is_no_row(monkeypatch, tmp_path):
    """Without a first run that draws, the second one's zero means nothing."""
    monkeypatch.setattr(_augment_pictures.assemble, "WEIGHTS", random_folder(tmp_path / "base"))
    _augment_pictures.second_run_row(True, tmp_path)
    with pytest.raises(RuntimeError, match="the first run drew 0 pictures"):
        _augment_pictures.second_run_row(True, tmp_path)


def test_both_halves_are_in_it(monkeypatch):
    monkeypatch.setattr(augment._augment_pictures, "rows", lambda quick: ["pictures", quick])
    monkeypatch.setattr(augment._augment_words, "rows", lambda quick: ["words", quick])
    assert augment.rows(True) == ["pictures", True, "words", True] and "augment" in names()
