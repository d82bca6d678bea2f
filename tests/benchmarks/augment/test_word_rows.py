"""The bench rows on words and masks, at their quick size."""

from __future__ import annotations

import numpy as np
import pytest

from comfyui_fewshot.augmentation.gallery.metadata import read_prompt
from comfyui_fewshot.benchmarks.augment import captions, images


def test_rows_have_their_names_and_the_validator_its_goals():
    found = {row.name: row for row in captions.validator_rows()}
    assert found["validator.leaks_caught"].value == found["validator.originals_kept"].value == 100
    assert captions.grammar_row(True).value >= 12


def test_the_gallery_is_written_as_tools_write_pictures(tmp_path):
    captions.write_gallery(tmp_path, 4)
    tools = [read_prompt(path).tool for path in sorted(tmp_path.glob("*.png"))]
    assert tools == ["ComfyUI", "A1111", "ComfyUI", "A1111"]


def test_the_gallery_s_rows_time_every_kind_of_search(monkeypatch):
    asked = []
    real = captions.searches

    def counting(gallery):
        def counted(name, search):
            def run(number):
                found = search(number)
                asked.append((name, len(found)))
                return found

            return run

        return {name: counted(name, search) for name, search in real(gallery).items()}

    monkeypatch.setattr(captions, "searches", counting)
    index, query = captions.gallery_rows(200, True)
    assert (index.name, query.name) == ("gallery.index_10k_seconds", "gallery.query_ms")
    assert index.value > 0 and query.value > 0 and index.n == 200
    assert {name for name, _ in asked} == {"words", "look", "both"} and len(asked) == 60
    assert all(count == 12 for name, count in asked if name != "words"), "all prompts hold the words that are fused"
    assert all(f"{name} " in query.note for name in ("words", "look", "both"))


def test_a_row_that_lacks_its_weights_is_no_row(monkeypatch, tmp_path):
    monkeypatch.setattr(captions, "WEIGHTS", tmp_path)
    with pytest.raises(RuntimeError, match="CLIPSeg"):
        captions.segment_rows(True)


def test_masks_are_measured_against_the_pixels(tmp_path):
    row = images.iou_row(True, tmp_path)
    assert row.value == 1.0 and row.n >= 24


def test_a_mask_that_is_one_pixel_off_is_seen():
    pixels = np.full((20, 30, 3), 100.0)
    pixels[5:15, 5:15], pixels[5:15, 15:25] = images.FLAT[0], images.FLAT[1]
    red, blue = (pixels == images.FLAT[0]).all(2), (pixels == images.FLAT[1]).all(2)
    assert images.visible_iou(pixels, {0: red, 1: blue}) == (1.0, 0)
    assert images.visible_iou(pixels, {0: np.roll(red, 1, 1), 1: blue})[0] < 0.95
    assert images.visible_iou(pixels, {0: red})[0] == 0.0, "a subject that no mask tells of"
    half = pixels.copy()
    half[5:15, 25] = 0.4 * images.FLAT[1] + 0.6 * 100
    assert images.visible_iou(half, {0: red, 1: blue})[0] == 1.0
    wide = blue.copy()
    wide[5:15, 25] = True
    assert images.visible_iou(half, {0: red, 1: wide})[0] < 1.0
