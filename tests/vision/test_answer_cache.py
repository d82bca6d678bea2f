"""What models answered is found on disk again, and no model is opened for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision import answer_cache
from comfyui_fewshot.vision.answer_cache import AnswerCache
from comfyui_fewshot.vision.captioners import CachedCaptioner, open_captioner
from comfyui_fewshot.vision.language_model import CachedWriter, LocalWriter, relation_messages
from comfyui_fewshot.vision.segmenters import finder_class, open_finder, open_masker
from comfyui_fewshot.vision.segmenters.cached import CachedFinder, CachedMasker

CPU = torch.device("cpu")


class Opening:
    """Opens a model and counts how often; `shut` refuses."""

    def __init__(self, opening):
        self.opening, self.count, self.shut = opening, 0, False

    def __call__(self):
        assert not self.shut, "the model was opened"
        self.count += 1
        return self.opening()


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_an_answer_is_made_once_and_the_model_opened_when_needed(tmp_path):
    opening = Opening(lambda: [])
    kept = AnswerCache(opening, "a model", tmp_path)
    assert opening.count == 0
    for _ in range(2):
        assert kept.get("one", by=lambda model: [*model, 1]) == [1]
    assert kept.get("two", by=lambda model: "ä") == "ä" and opening.count == 1
    again = AnswerCache(opening, "a model", tmp_path)
    assert again.get("one", by=lambda model: None) == [1] and opening.count == 1
    assert AnswerCache(opening, "another", tmp_path).get("one", by=lambda model: 2) == 2 and opening.count == 2
    assert not [file for file in tmp_path.iterdir() if file.suffix != ".json"]


def test_a_damaged_answer_is_made_again(tmp_path, caplog):
    kept = AnswerCache(list, "a model", tmp_path)
    kept.get("one", by=lambda model: 1)
    (file,) = tmp_path.iterdir()
    for damage in ("", "{", "[1]", '{"other": 1}'):
        file.write_text(damage)
        assert kept.get("one", by=lambda model: 2) == 2
    assert caplog.text.count("is made again") == 4 and kept.get("one", by=lambda model: 3) == 2


def test_another_revision_asks_again(tmp_path, monkeypatch):
    AnswerCache(list, "a model", tmp_path).get("one", by=lambda model: 1)
    monkeypatch.setattr(answer_cache, "REVISION", answer_cache.REVISION + 1)
    assert AnswerCache(list, "a model", tmp_path).get("one", by=lambda model: 2) == 2


@pytest.mark.parametrize("name", ["clipseg", "owl"])
def test_what_was_found_is_not_looked_for_again(name, tmp_path):
    folder = getattr(tiny, name)(tmp_path / name)
    opening = Opening(lambda: open_finder(folder, CPU))

    def finder():
        return CachedFinder(AnswerCache(opening, name, tmp_path / "kept"), finder_class(folder).threshold)

    plain = open_finder(folder, CPU)
    assert finder().threshold == plain.threshold
    expected, found = plain.find(picture(), ["dog", "cat"], 0.3), finder().find(picture(), ["dog", "cat"], 0.3)
    opening.shut = True
    for some in (found, finder().find(picture(), ["dog", "cat"], 0.3)):
        assert [(i.box, i.score, i.phrase) for i in some] == [(i.box, i.score, i.phrase) for i in expected]
        for one, other in zip(some, expected, strict=True):
            assert (one.mask is None) == (other.mask is None)
            assert one.mask is None or (np.array_equal(one.mask, other.mask) and one.mask.dtype == bool)
    for other in ((picture(1), ["dog", "cat"], 0.3), (picture(), ["dog"], 0.3), (picture(), ["dog", "cat"], 0.4)):
        with pytest.raises(AssertionError, match="was opened"):
            finder().find(*other)


def test_an_outline_is_not_drawn_again(tmp_path):
    folder = tiny.sam(tmp_path / "sam")
    opening, boxes = Opening(lambda: open_masker(folder, CPU)), [(3.0, 4.0, 40.0, 30.0), (0.0, 0.0, 9.5, 9.0)]

    def masker():
        return CachedMasker(AnswerCache(opening, "sam", tmp_path / "kept"))

    masker().masks(picture(), boxes)
    opening.shut = True
    for (mask, score), (own, own_score) in zip(
        masker().masks(picture(), boxes), open_masker(folder, CPU).masks(picture(), boxes), strict=True
    ):
        assert np.array_equal(mask, own) and mask.dtype == bool and score == pytest.approx(own_score, abs=1e-6)
    with pytest.raises(AssertionError, match="was opened"):
        masker().masks(picture(), boxes[:1])


def test_a_picture_is_not_captioned_again(tmp_path):
    folder = tiny.blip(tmp_path / "blip")
    opening = Opening(lambda: open_captioner(folder, CPU))
    said = CachedCaptioner(AnswerCache(opening, "blip", tmp_path / "kept")).caption(picture(), "short")
    assert said == open_captioner(folder, CPU).caption(picture(), "short")
    opening.shut = True
    again = CachedCaptioner(AnswerCache(opening, "blip", tmp_path / "kept"))
    assert again.caption(picture(), "short") == said
    for other in ((picture(1), "short"), (picture(), "full")):
        with pytest.raises(AssertionError, match="was opened"):
            again.caption(*other)


def test_a_conversation_is_not_held_again(tmp_path, monkeypatch):
    monkeypatch.setattr("comfyui_fewshot.vision.language_model.MAX_NEW_TOKENS", 8)
    folder = tiny.language_model(tmp_path / "llm")
    opening = Opening(lambda: LocalWriter(folder, CPU))
    messages = relation_messages("<R>", "cat", "chair", "a cat <R> a chair", 6)
    said = CachedWriter(AnswerCache(opening, "llm", tmp_path / "kept")).write(messages, 1)
    assert said == LocalWriter(folder, CPU).write(messages, 1)
    opening.shut = True
    again = CachedWriter(AnswerCache(opening, "llm", tmp_path / "kept"))
    assert again.write(messages, 1) == said
    for other in ((messages, 2), (messages[1:], 1)):
        with pytest.raises(AssertionError, match="was opened"):
            again.write(*other)
