"""The one rule for what a word is."""

from __future__ import annotations

import unicodedata

import pytest

from comfyui_fewshot.augmentation.captions.nouns import same_kind
from comfyui_fewshot.augmentation.captions.parse import words as words_of
from comfyui_fewshot.augmentation.captions.rules import RelationRules, SubjectRules
from comfyui_fewshot.augmentation.captions.spans import subject_spans
from comfyui_fewshot.core.text.prompts import strip_identifiers
from comfyui_fewshot.core.text.words import (
    find_any,
    find_noun,
    find_word,
    find_words,
    noun_forms,
    replace_word,
    same_word,
    spelled,
)
from comfyui_fewshot.core.values import Concept


@pytest.mark.parametrize(
    ("word", "text", "as_written"),
    [
        ("Ohwx", "a photo of a ohwx cat", "ohwx"),
        ("sks", "a SKS dog", "SKS"),
        ("sks", "the sks's ball", "sks"),
        ("sks", "the sks’s ball", "sks"),
        ("o'dog", "an o’dog", "o’dog"),
        ("sks", "a sks-dog", "sks"),
        ("sks-dog", "a sks–dog", "sks–dog"),
        ("sks", "_sks_ in snow", "sks"),
        ("sks", "(sks:1.2) dog", "sks"),
        ("sks", "一张sks狗的照片", "sks"),
        ("狗", "一张sks狗的照片", "狗"),
        ("ネコ", "ネコの写真", "ネコ"),
        ("sks", "sks를 찍은 사진", "sks"),
        ("café", "a cafe\u0301 cat", "cafe\u0301"),
        ("cafe\u0301", "a CAFÉ cat", "CAFÉ"),
        ("sks", "a ｓｋｓ dog", "ｓｋｓ"),
        ("<R>", "a cat ＜Ｒ＞ a chair", "＜Ｒ＞"),
        ("<R>", "cat<r>chair", "<r>"),
        ("[V]", "a [v] dog", "[v]"),
        ("❤", "a ❤️ dog", "❤️"),
        ("ΣΟΦΟΣ", "ο σοφος", "σοφος"),
        ("İzmir", "in İZMIR", "İZMIR"),
        ("r2d2", "an R2D2 toy", "R2D2"),
        ("striped  cat", "a Striped\n cat", "Striped\n cat"),
    ],
)
def test_a_word_is_found_however_it_is_written(word: str, text: str, as_written: str):
    found = find_word(word, text)
    assert found is not None and found.group() == as_written == text[slice(*found.span())]
    assert same_word(word, found.group()) and replace_word(word, text, lambda _: "#") == text.replace(as_written, "#")


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("sks", "asks"), ("sks", "sks2"), ("sks", "sks_dog"), ("cat", "cat_girl"), ("cat", "cats"), ("e", "cafe\u0301"),
        ("cafe", "café"), ("개", "개구리"), ("하", "한국"), ("sks", ""), ("", "a cat"), (" ", "a cat"), ("и", "й"),
    ],
)  # fmt: skip
def test_a_part_of_a_word_is_none(word: str, text: str):
    assert find_word(word, text) is None and find_words(word, text) == [] and replace_word(word, text, str) == text


def test_of_several_words_the_longest_is_found():
    text = "a sks-dog, SKS, sks and a sks"
    assert [(found.group(), word) for found, word in find_any(["sks", "SKS", "sks-dog", "sk"], text)] == [
        ("sks-dog", "sks-dog"), ("SKS", "SKS"), ("sks", "sks"), ("sks", "sks"),
    ]  # fmt: skip
    assert find_any(["Ohwx"], "ohwx")[0][1] == "Ohwx" and find_any([], text) == find_any(["x"], "") == []


def test_nouns_and_spelling():
    assert [noun_forms(noun)[-1] for noun in ("cat", "box", "puppy", "toy", "bus")] == [
        "cats", "boxes", "puppies", "toys", "buses",
    ]  # fmt: skip
    places = [find_noun("box", text) for text in ("two Boxes", "a box and boxes", "a boxer")]
    assert [found and found.group() for found in places] == ["Boxes", "box", None]
    assert find_noun("", "a box") is None
    assert spelled("sks", "a ｓｋｓ, SKS") == "a sks, SKS"
    decomposed = unicodedata.normalize("NFD", "ñu")
    assert spelled("ñu", decomposed) == decomposed  # which a text encoder composes


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("a photo of an OHWX's ball", "a photo of a ball"),
        ("a ohwx-cat on a cat-ohwx", "a cat on a cat"),
        ("an (ohwx:1.3) cat", "a cat"),
        ("a (ohwx cat:1.3)", "a (cat:1.3)"),
        ("embedding:ohwx cat, ohwx, grass", "cat, grass"),
        ("一张ohwx猫", "一张猫"),
        ("a ｏｈｗｘ cat", "a cat"),
        ("a ohwx_cat", "a ohwx_cat"),
    ],
)
def test_identifiers_are_stripped_by_the_same_rule(text: str, stripped: str):
    assert strip_identifiers(text, [Concept("Ohwx", "cat")]) == stripped


def test_rules_spans_and_kinds_find_the_same_words():
    """What one part of the captions' code finds, the others find too."""
    concept = Concept("Ohwx", "cat")
    for caption in ("a photo of a ohwx cat", "a photo of an OHWX cat"):
        assert SubjectRules(concept).check(caption).good
        assert subject_spans(caption, concept)[0] == find_words("Ohwx", caption)[0].span()
    assert RelationRules.of("Ohwx", "cat ohwx chair").check("a cat OHWX a chair").good
    assert RelationRules.of("<R>", "cat<R>chair").check("a cat<R>a chair").good
    for text in ("1girl, fox_ears, castle", "cat_girl", "a cat's toy", "t-shirt, fox-like dog"):
        kind = same_kind("dog", text)
        assert not kind or find_word(kind, text)
        assert all(find_word(word, text) for word in words_of(text) if "_" not in text)
