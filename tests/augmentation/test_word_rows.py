"""The bench rows on words, at their quick size."""

from __future__ import annotations

from comfyui_fewshot.benchmarks import _augment_words as words


def test_rows_have_their_names_and_the_validator_its_goals():
    found = {row.name: row for row in words.validator_rows()}
    assert found["validator.leaks_caught"].value == found["validator.originals_kept"].value == 100
    assert words.grammar_row(True).value >= 12


def test_the_gallery_s_rows_are_measured(monkeypatch, tmp_path):
    words.write_gallery(tmp_path, 4)
    assert len(list(tmp_path.glob("*.png"))) == 4
    from comfyui_fewshot.augmentation.prompt_metadata import read_prompt

    tools = [read_prompt(path).tool for path in sorted(tmp_path.glob("*.png"))]
    assert tools == ["ComfyUI", "A1111", "ComfyUI", "A1111"]
