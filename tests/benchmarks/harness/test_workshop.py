"""The unit of the bench: trained, sampled and judged once, then read from disk."""

import logging

import pytest

from comfyui_fewshot.benchmarks.harness import workshop
from comfyui_fewshot.benchmarks.subject import sets


def test_what_was_done_is_not_done_again(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(workshop, "STEPS", 2)
    shop = workshop.Workshop(2, tmp_path)
    pictures = sets.references(shop.sets, "cat_striped")
    prompts = [ask.prompt for ask in sets.prompt_checks("cat", "sks cat", count=2)]

    def all_of_it():
        adapter = workshop.Workshop(2, tmp_path).train(pictures, local_weight=0.05, prior_weight=0.0)
        return adapter, shop.readings(None, prompts), shop.readings(adapter, prompts, seed=1)

    adapter, *read = all_of_it()
    assert all(len(each) == 2 for each in read) and len(list(tmp_path.rglob("readings/*.png"))) == 2
    assert 0 <= shop.attention_iou(adapter, sets.held_out(shop.sets, "cat_striped", 2)) <= 1

    def never(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(workshop, "open_base", never)
    monkeypatch.setattr("comfyui_fewshot.trainers.run.opened", never)
    with caplog.at_level(logging.INFO):
        again, *read_again = all_of_it()
    assert again.key == adapter.key and read_again == read and "a finished run with the same inputs" in caplog.text
    with pytest.raises(AssertionError, match="opened"):
        shop.readings(adapter, prompts, seed=2)


def test_comments_do_not_make_sources_new(tmp_path, monkeypatch):
    def key_of(source):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / "a.py").write_text(source)
        workshop.sources_key.cache_clear()
        return workshop.sources_key()

    monkeypatch.setattr(workshop, "ROOT", tmp_path)
    plain = key_of('"""What."""\ndef f():\n    """One."""\n    return 1\n')
    assert key_of('"""Else."""\n# why\ndef f():\n    """Two."""\n    return 1\n') == plain
    assert key_of('"""What."""\ndef f():\n    """One."""\n    return 2\n') != plain
    workshop.sources_key.cache_clear()
