"""Expanded sets: the grammar, scripted good, leaking and broken models, texts of other nodes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from comfyui_fewshot.augmentation.captions import expand as expansion
from comfyui_fewshot.augmentation.captions import grammar
from comfyui_fewshot.augmentation.captions.expand import ExpansionSettings, expand
from comfyui_fewshot.augmentation.captions.llm_answers import captions_in
from comfyui_fewshot.augmentation.captions.parse import parts_of
from comfyui_fewshot.augmentation.captions.rules import RelationRules, SubjectRules
from comfyui_fewshot.augmentation.images.load import picture_of, stored_picture
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Sample, TrainingSet

RELATION = Concept("<R>", "on", kind="relation")
DOG = Concept("sks", "dog")
NOUN = st.text("abcdefghijklmnopqrstuvwxyz", min_size=2, max_size=10)
GOOD = [
    "a cat <R> a chair", "one cat <R> the chair", "a white cat <R> a chair, outdoors", "the tabby cat <R> a red chair",
    "a fluffy cat <R> a tall chair",
]  # fmt: skip
LEAKING = ["a cat sitting <R> a chair", "a cat on <R> a chair", "chair <R> cat", "a cat and a chair"]


class Script:
    """A language model whose answers are written down."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def write(self, messages, seed):
        self.asked.append((list(messages), seed))
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


@pytest.fixture
def pictures(tmp_path):
    def made(*captions, concept=RELATION, prior=False):
        samples = []
        for number, caption in enumerate(captions):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", (8, 6), (number * 20, 0, 0)).save(path)
            samples.append(Sample(picture_of(path), caption))
        if prior:
            samples.append(Sample(samples[0].image, "a photo of a cat", role="prior"))
        return TrainingSet(tuple(samples), (concept,))

    return made


def answer(captions):
    return json.dumps({"captions": [{"text": c, "a": "cat", "b": "chair"} for c in captions]})


@settings(max_examples=30, deadline=None)
@given(NOUN, NOUN, st.integers(0, 2**40))
def test_the_grammar_has_twelve_captions_for_any_two_nouns(first, second, seed):
    own = f"{first} <R> {second}"
    try:
        rules = RelationRules.of("<R>", own)
    except FewShotError:
        return  # "an" alone is an article, and names nothing
    if not rules.check(own).good:
        return  # "on" is a preposition
    captions = grammar.relation_captions(parts_of(own, "<R>"), rules, 12, seed)
    assert len(set(captions)) == 12 and captions[0] == own
    assert all(rules.check(caption).good for caption in captions)
    assert captions == grammar.relation_captions(parts_of(own, "<R>"), rules, 12, seed)


@pytest.mark.parametrize("noun", ["dog", "teddy bear", "owl"])
def test_the_grammar_has_twelve_captions_for_any_subject(noun):
    concept = Concept("sks", noun, "orange")
    for contexts in ((), ("on the beach",)):
        captions = grammar.subject_captions(concept, SubjectRules(concept), 12, 3, contexts)
        assert len(set(captions)) == 12
        assert all("sks orange" in c and (not contexts or c.endswith("on the beach")) for c in captions)


def test_seeds_give_other_captions(pictures):
    given_set = pictures("a cat <R> a chair")
    one, other = (expand(given_set, ExpansionSettings(12, seed=seed))[0] for seed in (0, 1))
    assert one.key != other.key and one.key == expand(given_set, ExpansionSettings(12, seed=0))[0].key


def test_the_grammar_shares_a_picture_s_weight(pictures):
    made, rows = expand(pictures("a cat <R> a chair", "a cup <R> a book", prior=True), ExpansionSettings(5))
    assert len(made.references) == 10 and len(made.priors) == 1
    assert sum(s.weight for s in made.references) == pytest.approx(2)
    assert made.references[0].caption == "a cat <R> a chair"
    assert {row.source for row in rows} == {"given", "grammar"} and all(row.kept for row in rows)
    again, _ = expand(made, ExpansionSettings(5, seed=9))
    assert [s.caption for s in again.references] == [s.caption for s in made.references]
    assert sum(s.weight for s in again.references) == pytest.approx(2)


def test_a_good_model_is_kept_and_asked_once(pictures):
    model = Script("Sure! Here they are:\n```json\n" + answer(GOOD) + "\n```\nI hope that helps.")
    made, rows = expand(pictures("cat <R> chair"), ExpansionSettings(6), model)
    assert [s.caption for s in made.samples] == ["cat <R> chair", *GOOD]
    assert len(model.asked) == 1 and model.asked[0][1] == 0
    assert "Never describe" in model.asked[0][0][0]["content"]


def test_a_leaking_model_is_told_why_and_then_replaced(pictures):
    model = Script(answer(LEAKING))
    made, rows = expand(pictures("cat <R> chair"), ExpansionSettings(8), model)
    assert (
        len(model.asked) == expansion.MAX_ATTEMPTS and len({seed for _, seed in model.asked}) == expansion.MAX_ATTEMPTS
    )
    assert '"sitting" tells how' in model.asked[1][0][-1]["content"]
    refused = {row.caption: row.reason for row in rows if row.source == "model"}
    assert all(refused.values()) and refused["a cat and a chair"].startswith("placeholder")
    assert len(made.samples) == 8
    assert {row.source for row in rows if row.kept} == {"given", "grammar"}


@pytest.mark.parametrize(
    "broken", ["", "I cannot do that.", '{"captions": ["a cat <R>', "[]", "<think>hm, a cat <R> a chair"]
)
def test_a_broken_model_falls_back_to_the_grammar(pictures, broken):
    made, rows = expand(pictures("cat <R> chair"), ExpansionSettings(8), Script(broken))
    assert len(made.samples) == 8
    assert all(row.reason for row in rows if row.source == "model")


def test_a_model_that_mends_itself_is_used(pictures):
    model = Script(answer(LEAKING), answer(GOOD))
    made, rows = expand(pictures("cat <R> chair"), ExpansionSettings(6), model)
    assert len(model.asked) == 2 and {row.source for row in rows if row.kept} == {"given", "model"}


def test_subjects_are_asked_of_a_model_without_what_is_bound(pictures):
    model = Script(answer(["a sks dog on grass", "a dog by the sea", "a sks dog with a red collar", "a car"]))
    given_set = pictures("a photo of a sks dog", concept=DOG)
    made, rows = expand(given_set, ExpansionSettings(8, bind=("red collar",)), model)
    captions = [s.caption for s in made.samples]
    assert {"a sks dog on grass", "a sks dog by the sea"} <= set(captions)
    reasons = {row.caption: row.reason for row in rows if not row.kept}
    assert reasons["a sks dog with a red collar"].startswith("bound") and "placeholder" in reasons["a car"]
    assert "red collar" in model.asked[0][0][0]["content"]


def test_texts_of_other_nodes_go_to_their_pictures(pictures):
    text = json.dumps({"0.png": [GOOD[0]], "1": ["a cup <R> a red book"], "elsewhere": ["x"]})
    made, rows = expand(pictures("cat <R> chair", "cup <R> book"), ExpansionSettings(6), text=text)
    from_text = {(row.picture, row.caption) for row in rows if row.source == "text" and row.kept}
    assert from_text == {("0.png", GOOD[0]), ("1.png", "a cup <R> a red book")}
    assert [(row.picture, row.caption) for row in rows if "no such picture" in row.reason] == [("elsewhere", "x")]
    lines = "1. a black cat <R> a chair\n- a cup <R> an old book\n"
    _, rows = expand(pictures("cat <R> chair", "cup <R> book"), ExpansionSettings(6), text=lines)
    kept = {(row.picture, row.caption) for row in rows if row.kept and row.source == "text"}
    assert kept == {("0.png", "a black cat <R> a chair"), ("1.png", "a cup <R> an old book")}


def test_a_text_that_says_nothing_of_a_picture_is_in_the_report(pictures):
    given_set = pictures("cat <R> chair", "cup <R> book")
    _, rows = expand(given_set, ExpansionSettings(6), text=json.dumps({"0.png": [GOOD[0]]}))
    assert [(row.picture, row.reason) for row in rows if row.source == "text" and not row.kept] == [
        ("1.png", "missing: the text holds no caption of this picture")
    ]
    _, rows = expand(given_set, ExpansionSettings(6), text='{"captions": ["a cat <R>')
    assert rows[-1].picture == "" and rows[-1].reason.startswith("form") and "of no picture" in expansion.report(rows)


@pytest.mark.parametrize("told", ["a cat towed <R> a car", "a cat <R> a car, towing home"])
def test_the_set_s_words_of_the_relation_are_refused(pictures, told):
    """Without their being named in the settings, and as a caption that a person gave."""
    named = Concept("<R>", "", "towed by", kind="relation")
    made, rows = expand(pictures(told, concept=named), ExpansionSettings(6))
    assert rows[0].source == "given" and "word of the relation" in rows[0].reason
    assert not any("tow" in sample.caption for sample in made.samples)


def test_a_given_caption_that_tells_the_relation_is_not_written_from(pictures):
    """Its noun is the thing, so that the grammar writes of the thing."""
    made, rows = expand(pictures("a cat sitting <R> a chair"), ExpansionSettings(6))
    assert '"sitting"' in rows[0].reason and made.samples[0].caption == "cat <R> chair"
    assert len(made.samples) == 6 and not any("sitting" in sample.caption for sample in made.samples)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=30).map(str.strip).filter(bool), min_size=1, max_size=5),
    st.sampled_from(["", "Here you are: ", "```json\n", "Notes [1] first.\n"]),
    st.sampled_from(["", "\n```", "\nThat is all {for now}.", " trailing ] prose"]),
)
def test_json_is_recovered_from_any_wrapping(captions, before, after):
    assert captions_in(before + json.dumps({"captions": captions}) + after)[""] == captions


def test_lines_lose_bullets_and_chatter():
    assert captions_in("Here are captions:\n1) one\n* two\n\n(3) three") == {"": ["one", "two", "three"]}
    assert captions_in("<think>no</think>\na cat") == {"": ["a cat"]}


def test_bad_input_is_told(pictures):
    with pytest.raises(FewShotError, match="0 times"):
        expand(pictures("a cat on a chair"), ExpansionSettings())
    with pytest.raises(FewShotError, match="no pictures of its own"):
        expand(TrainingSet((), (DOG,)), ExpansionSettings())
    with pytest.raises(FewShotError, match="choose from 1 to 100"):
        ExpansionSettings(0)
    long = "a sks dog, " + ", ".join(f"word{n}" for n in range(500))
    made, rows = expand(pictures(long, concept=DOG), ExpansionSettings(4))
    assert rows[0].reason.startswith("length") and len(made.samples) == 4
    assert "length" in expansion.report(rows)


def test_backgrounds_are_named_by_what_most_of_them_is(tmp_path):
    picture, mask = Image.new("RGB", (60, 40), (45, 100, 205)), Image.new("L", (60, 40))
    ImageDraw.Draw(picture).rectangle((20, 10, 40, 30), fill="red")
    ImageDraw.Draw(mask).rectangle((20, 10, 40, 30), fill=255)
    assert grammar.background_colour(picture, mask) == "blue"
    halves = picture.copy()
    ImageDraw.Draw(halves).rectangle((0, 0, 60, 20), fill=(250, 250, 250))
    assert grammar.background_colour(halves, mask) == ""
    assert grammar.background_colour(picture, Image.new("L", (60, 40), 255)) == ""
    sample = Sample(stored_picture(picture, tmp_path), "a photo of sks dog", stored_picture(mask, tmp_path))
    made, _ = expand(TrainingSet((sample,), (DOG,)), ExpansionSettings(6))
    assert all(s.caption.endswith("blue background") for s in made.samples[1:])
