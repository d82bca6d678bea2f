"""Captions: where they come from and how the identifier gets into them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.augmentation.captions.identifiers import find_word, with_subject
from comfyui_fewshot.core.values import Concept

CAT, STRIPED = Concept("sks", "cat"), Concept("sks", "cat", "striped")


@pytest.mark.parametrize(
    ("caption", "concept", "wanted"),
    [
        ("", CAT, "a photo of sks cat"),
        ("  ", STRIPED, "a photo of sks striped cat"),
        ("a photo of a sks cat on the beach", CAT, "a photo of a sks cat on the beach"),
        ("SKS Cat", CAT, "SKS Cat"),
        ("a sks cat on the beach", STRIPED, "a sks striped cat on the beach"),
        ("a sks striped cat", STRIPED, "a sks striped cat"),
        ("a sks in the snow", STRIPED, "a sks in the snow"),
        ("a cat on a mat", CAT, "a sks cat on a mat"),
        ("a Cat on a mat", STRIPED, "a sks striped Cat on a mat"),
        ("a striped cat", STRIPED, "a sks striped cat"),
        ("cats in a category", CAT, "sks cat, cats in a category"),
        ("an owl", Concept("sks", "owl"), "a sks owl"),
        ("An owl", Concept("[V]", "owl"), "A [V] owl"),
        ("solo, outdoors, grass", STRIPED, "sks striped cat, solo, outdoors, grass"),
        ("a sksy cat", CAT, "a sksy sks cat"),
        ("a photo of a teddy bear", Concept("<new1>", "teddy bear"), "a photo of a <new1> teddy bear"),
        ("two\nlines of a cat", CAT, "two lines of a sks cat"),
    ],
)
def test_the_identifier_gets_in(caption, concept, wanted):
    assert with_subject(caption, concept) == wanted


@given(st.text(max_size=60), st.sampled_from([CAT, STRIPED, Concept("[V]", "c++ book", "(old)")]))
def test_once_in_it_stays(caption, concept):
    once = with_subject(caption, concept)
    assert find_word(concept.identifier, once)
    assert with_subject(once, concept) == once
