"""The bench of augmentation at its quick size."""

from __future__ import annotations

import itertools

import pytest

from comfyui_fewshot.benchmarks import names
from comfyui_fewshot.benchmarks.augment import images, parts
from comfyui_fewshot.pocket.assemble import random_folder


def test_the_rows_on_pictures(monkeypatch, tmp_path):
    monkeypatch.setattr(images, "WEIGHTS", random_folder(tmp_path / "base"))
    found = {row.name: row for row in itertools.chain(*(part() for part in images.parts(True).values()))}
    assert found["paste.mask_iou"].value == 1.0 and found["paste.mask_iou"].n >= 24
    assert found["paste.per_minute"].value > 300 and found["paste.per_minute"].goal is None
    assert found["priors.second_run_evaluations"].value == 0 and found["priors.second_run_evaluations"].met


def test_a_void_row_is_no_row(monkeypatch, tmp_path):
    """Without a first run that draws, the second one's zero means nothing."""
    monkeypatch.setattr(images, "WEIGHTS", random_folder(tmp_path / "base"))
    images.second_run_row(True, tmp_path)
    with pytest.raises(RuntimeError, match="the first run drew 0 pictures"):
        images.second_run_row(True, tmp_path)


def test_the_bench_has_a_part_for_each_thing_measured():
    assert "augment" in names()
    expected = ["paste_masks", "paste_speed", "priors", "segment", "gallery", "grammar", "validator"]
    assert list(parts.parts(True)) == expected
