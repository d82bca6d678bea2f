"""Which captions pass: what any passing text holds, the report's own captions, and reasons by name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.augmentation.captions import leaks
from comfyui_fewshot.augmentation.captions import rules as caption_rules
from comfyui_fewshot.augmentation.captions.parse import parts_of, phrase_of, plain, singular, split_context, words
from comfyui_fewshot.augmentation.captions.rules import RelationRules, SubjectRules
from comfyui_fewshot.benchmarks.relation.report_captions import CAT, LEAKING, POT
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept

DOG = Concept("sks", "dog", "red")
VOCABULARY = [
    "cat", "cats", "chair", "chairs", "animal", "dog", "table", "a", "the", "an", "this", "black", "wooden", "round",
    "sitting", "sat", "perched", "resting", "holding", "on", "under", "in", "with", "of", "by", "inside", "and",
    "<R>", "<R>", "()", "<r>", ",", ",", "background", "indoors", "it", "them", "glorp", "touching", "{", "}", "é", "—",
]  # fmt: skip


def relation(caption="a cat <R> a chair", *names):
    return RelationRules.of("<R>", caption, names)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=9).map(" ".join) | st.text(max_size=40))
def test_whatever_passes_keeps_every_rule(text):
    verdict = relation("a cat <R> a chair", "leaping over").check(text)
    if not verdict.good:
        assert ":" in verdict.reason
        return
    caption = verdict.text
    assert caption.count("<R>") == 1 and not set("{}[]|\\") & set(caption)
    before, after = caption.split("<R>")
    second, context = split_context(after)
    assert {"cat", "animal"} & {singular(w) for w in words(before)}
    assert {"chair", "furniture"} & {singular(w) for w in words(second)}
    assert not any(leaks.is_relation_verb(word) for word in words(caption))
    prepositions = [
        w for w in words(before + " " + second) if w in leaks.PREPOSITIONS - {"with", "round", "without", "of"}
    ]
    assert not prepositions
    assert "," not in before and not {"leap", "leaping", "over"} & set(words(caption))
    assert not {"cat", "chair", "it"} & {singular(w) for w in words(context)}
    assert caption_rules.estimate_tokens(caption) <= caption_rules.MAX_TOKENS


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["", "a ", "the ", "a small "]),
    st.sampled_from(["", "a ", "one ", "a wooden "]),
    st.sampled_from(["", ", indoors", ", in the evening light", ", simple background"]),
)
def test_plain_captions_pass(first, second, context):
    assert relation().check(f"{first}cat <R> {second}chair{context}").good


def test_the_report_s_originals_are_kept():
    for own, captions in (CAT, POT):
        for caption in captions:
            assert relation(own).check(caption).reason == ""


@pytest.mark.parametrize("own, caption, word", LEAKING)
def test_the_report_s_leaking_captions_are_refused_by_name(own, caption, word):
    reason = relation(own).check(caption).reason
    assert reason.startswith("leak:") and word in reason


def test_what_the_report_s_model_made_without_leaking_is_kept():
    for caption in ("a playful cat () a chair", "a curious cat () a chair"):
        assert relation(CAT[0]).check(caption).good
    assert relation(CAT[0]).check("a cat () a chair in a neutral background").good


@pytest.mark.parametrize(
    "caption, reason",
    [
        ("chair <R> cat", "changed places"),
        ("a cat <R>", '"chair" does not stand after'),
        ("cat and chair <R> chair", "both sides"),
        ("cat <R> chair <R>", "2 times"),
        ("cat chair", "0 times"),
        ("cat <R> chair [best]", 'form: it holds "["'),
        ("", "says nothing"),
        ("<R>", "says nothing"),
        ("cat gleefully <R> chair", "gleefully"),
        ("cat <R> touching a chair", "touching"),
        ("a cat with <R> a chair", '"with"'),
        ("cat <R> chair, the cat again", 'speaks of "cat"'),
        ("cat <R> chair, both of them", "both"),
        ("big, cat <R> chair", "comma before"),
        ("cat <R> chair, " + "very " * 60 + "blue", "length"),
        ("a cat <R> chair of", '"of"'),
        ("a cat sitting <R> a chair", "sitting"),
        ("a cat is <R> a chair", '"is"'),
        ("a relaxing cat <R> a chair", "relaxing"),
        ("a dozing cat <R> a chair", "dozing"),
        ("a cat <R> an occupied chair", "occupied"),
        ("a cat <R> a chair, comfortably on top", "on top"),
        ("a cat <R> a chair, at the top of the stairs", "at the top"),
        ("a cat <R> a chair, comfortably inside", 'ends in "inside"'),
        ("a cat <R> a chair on", 'ends in "on"'),
        ("a cat <R> a chair, under the feline", '"under feline"'),
        ("a cat <R> a chair, pet on seat", '"on seat"'),
        ("a cat <R> a chair under it", '"it"'),
        ("a cat <R> a chair near a table", '"near table"'),
    ],
)
def test_each_refusal_says_why(caption, reason):
    assert reason in relation().check(caption).reason


def test_the_relation_s_own_words_are_refused_in_every_form():
    rules = relation("cat <R> stone", "painted on")
    for caption in ("cat <R> painted stone", "cat <R> stone, paints", "cat <R> stone, on display"):
        assert "relation" in rules.check(caption).reason or "relate" in rules.check(caption).reason


def test_a_noun_that_looks_like_a_verb_may_be_named():
    assert relation("a stand <R> a painting").check("the stand <R> one painting").good


def test_the_number_of_tokens_is_the_tokenizer_s():
    rules = RelationRules.of("<R>", "cat <R> chair", tokens=lambda text: 41)
    assert rules.check("cat <R> chair").reason == "length: 41 tokens, more than 40"


@pytest.mark.parametrize("head", ["sitting", "perched", "supported", "resting", "hugging", "sat", "is", "are", "was"])
def test_what_tells_the_relation_names_no_thing(head):
    """Not as the person's own caption either, nor where nothing else is named."""
    own = f"a cat {head} <R> a chair"
    assert parts_of(own, "<R>").first.noun == "cat"
    rules = relation(own)
    assert rules.first[0] == "cat" and head in rules.check(own).reason and rules.check("cat <R> chair").good
    if head not in ("is", "are", "was"):
        assert head in relation(f"{head} <R> a chair").check(f"{head} <R> chair").reason


@pytest.mark.parametrize(
    "caption, nouns, context",
    [
        ("a cat {} a stone on the ground", ("cat", "stone"), "on the ground"),
        ("a man and a dog {} a car", ("dog", "car"), ""),
        ("a cat {} a stone and a leaf, outside", ("cat", "leaf"), "outside"),
        ("a cat {} a bird in the snow, at night", ("cat", "bird"), "in the snow at night"),
        ("a cat {} a round table with a cloth in a room", ("cat", "table"), "in a room"),
        ("a cat {} a stone, seen from above", ("cat", "stone"), "seen from above"),
        ("a bird {} a nest", ("bird", "nest"), ""),
        ("an old swing {} a painting", ("swing", "painting"), ""),
    ],
)
def test_a_place_behind_the_things_is_the_context(caption, nouns, context):
    parts = parts_of(caption, "<R>")
    assert ((parts.first.noun, parts.second.noun), parts.context) == (nouns, context)
    assert relation(caption).check(caption).reason == ""


def test_words_are_found_in_their_parts():
    parts = parts_of("a pot with green plant () a wooden stool, indoor", "<R>")
    assert (parts.first.noun, parts.second.noun, parts.context) == ("pot", "stool", "indoor")
    assert phrase_of("a cup of coffee").noun == "cup" and phrase_of("the two cats").noun == "cats"
    with pytest.raises(FewShotError, match="0 times"):
        parts_of("a cat on a chair", "<R>")
    with pytest.raises(FewShotError, match="names nothing"):
        parts_of("<R> a chair", "<R>")
    assert plain("  “A  cat”. ") == "A cat"
    assert leaks.inflected("sit") >= {"sit", "sits", "sitting", "sat"} and "stacking" in leaks.inflected("stack")


def test_subjects_keep_their_identifier_before_their_noun():
    rules = SubjectRules(DOG, frozenset({"collar"}))
    assert rules.check("a photo of a sks red dog, on grass").good and rules.check("sks dog").good
    assert "right before" in rules.check("sks in a dog house").reason
    assert "0 times" in rules.check("a dog").reason
    assert "2 times" in rules.check("sks dog and sks dog").reason
    assert "bound" in rules.check("sks red dog with a collar").reason


def test_captions_that_say_the_same_are_told():
    said = caption_rules.distinct(["a cat <R> the chair", "the cat <R> a chair", "a cat <R> a chair, indoors"])
    assert [bool(reason) for reason in said.values()] == [False, True, False]
