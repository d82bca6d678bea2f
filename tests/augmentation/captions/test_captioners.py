"""Captioners and the language model by their real classes; what is bound is left out of captions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comfyui_fewshot.augmentation.captions.caption import (
    CaptionSettings,
    caption_set,
    report,
    without_words,
    words_to_omit,
)
from comfyui_fewshot.augmentation.captions.parse import singular, words
from comfyui_fewshot.augmentation.images.load import picture_of
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Sample, TrainingSet
from comfyui_fewshot.tests.vision import tiny
from comfyui_fewshot.vision import find
from comfyui_fewshot.vision.captioners import open_captioner
from comfyui_fewshot.vision.language_model import LocalWriter, relation_messages, retry_messages, subject_messages

CPU = torch.device("cpu")
DOG, CAT = Concept("sks", "dog"), Concept("zwx", "cat", "grey")


class Says:
    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    def caption(self, picture, detail):
        self.asked.append((picture.size, detail))
        return self.texts[(len(self.asked) - 1) % len(self.texts)]


@pytest.fixture
def pictures(tmp_path):
    samples = []
    for number, (concept, role) in enumerate(((0, "reference"), (1, "reference"), (0, "prior"))):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20 + number, 10), (number, 0, 0)).save(path)
        samples.append(Sample(picture_of(path), f"caption {number}", role=role, concept=concept))
    return TrainingSet(tuple(samples), (DOG, CAT))


@pytest.mark.parametrize("name", ["blip", "florence", "qwen_vl"])
def test_a_captioner_runs_on_any_picture(name, tmp_path, monkeypatch):
    captioner = open_captioner(getattr(tiny, name)(tmp_path / name), CPU)
    seen = {}
    generate = captioner.model.generate

    def run(**inputs):
        seen.update(inputs)
        made = generate(**{**inputs, "max_new_tokens": 4})
        seen["made"] = made
        return made

    captioner.model.generate = run
    assert isinstance(captioner.caption(Image.new("RGB", (90, 60), "red"), "short"), str)
    red = seen["pixel_values"].clone()
    captioner.caption(Image.new("RGB", (90, 60), "blue"), "short")
    assert not torch.equal(red, seen["pixel_values"])
    if name != "blip":
        asked = captioner.processor.batch_decode(seen["input_ids"], skip_special_tokens=True)[0]
        assert "What does the image describe?" in asked or "one short sentence" in asked


def test_a_captioner_s_words_are_decoded(tmp_path):
    captioner = open_captioner(tiny.qwen_vl(tmp_path / "vl"), CPU)
    said = captioner.processor.tokenizer("a dog on grass", return_tensors="pt").input_ids
    captioner.model.generate = lambda **inputs: torch.cat([inputs["input_ids"], said], 1)
    assert captioner.caption(Image.new("RGB", (60, 90)), "detailed") == "a dog on grass"


def test_a_language_model_answers_the_same_for_the_same_seed(tmp_path, monkeypatch):
    monkeypatch.setattr("comfyui_fewshot.vision.language_model.MAX_NEW_TOKENS", 12)
    folder = tiny.language_model(tmp_path / "llm")
    assert list(find.find([tmp_path], find.WRITERS)) == ["llm"]
    writer, messages = LocalWriter(folder, CPU), relation_messages("<R>", "cat", "chair", "a cat <R> a chair", 6)
    state = torch.get_rng_state()
    one = writer.write(messages, 1)
    assert one == writer.write(messages, 1) and one != writer.write(messages, 2)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers are not touched"
    writer.tokenizer.chat_template = None
    assert isinstance(writer.write(messages, 1), str)


NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)
"""as Gemma's: no system role, and turns that alternate"""
SILENT = (
    "{% for m in messages %}{% if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [NO_SYSTEM, SILENT])
def test_a_template_without_a_system_role_gets_the_rules_with_the_first_question(template, tmp_path, monkeypatch):
    monkeypatch.setattr("comfyui_fewshot.vision.language_model.MAX_NEW_TOKENS", 4)
    writer = LocalWriter(tiny.language_model(tmp_path / "llm"), CPU)
    messages = relation_messages("<R>", "cat", "chair", "a cat <R> a chair", 6)
    formed = writer._prompt(messages)
    assert formed.startswith("system: " + messages[0]["content"]), "a template that has the role is used as it is"
    writer.tokenizer.chat_template = template
    again = retry_messages(messages, "no", ["leak"], 4)
    for talk in (messages, again):
        prompt = writer._prompt(talk)
        assert prompt.startswith("<user>" + messages[0]["content"] + "\n\n" + messages[1]["content"])
        assert isinstance(writer.write(talk, 1), str)
    assert "<assistant>no<user>Refused" in prompt
    writer.tokenizer.chat_template = "{{ raise_exception('no talk') }}"
    with pytest.raises(FewShotError, match="no talk.*instruction-following"):
        writer.write(messages, 1)


def test_the_questions_hold_the_rules():
    relation = relation_messages("<R>", "cat", "chair", "a cat <R> a chair", 6)
    assert '"cat" before it and "chair" after it' in relation[0]["content"] and "{" in relation[0]["content"]
    subject = subject_messages(DOG, "a sks dog", ("red collar",), 6)
    assert "sks dog" in subject[0]["content"] and "above all not: red collar" in subject[0]["content"]
    again = retry_messages(relation, "no", ['"x": leak'], 4)
    assert [m["role"] for m in again] == ["system", "user", "assistant", "user"] and "leak" in again[-1]["content"]


# ---------------------------------------------------------------------------------------------------------- the set


def test_captions_get_the_subject_and_lose_what_is_bound(pictures):
    says = Says("The image shows a dog with a red collar on grass.", "a striped cat near a dog, in a red room")
    made, table = caption_set(pictures, says, CaptionSettings(("sks: red collar", "zwx: striped"), "detailed"))
    assert [s.caption for s in made.samples] == [
        "a sks dog on grass", "a zwx grey cat near a dog, in a red room", "caption 2",
    ]  # fmt: skip
    assert says.asked == [((20, 10), "detailed"), ((21, 10), "detailed")]
    assert table[0].answer.startswith("The image shows")


def test_captions_of_one_s_own_are_kept_when_asked(pictures):
    samples = (Sample(pictures.samples[0].image, "a photo of sks dog"), *pictures.samples[1:])
    made, table = caption_set(pictures.with_samples(samples), Says("a dog at sea"), CaptionSettings(overwrite=False))
    assert [s.caption for s in made.samples] == ["a sks dog at sea", "caption 1", "caption 2"] and len(table) == 1


def test_a_captioner_that_says_nothing_leaves_the_template(pictures, caplog):
    made, _ = caption_set(pictures, Says("  "))
    assert made.samples[0].caption == "a photo of sks dog" and "said nothing" in caplog.text


def test_tokens_are_counted_and_long_captions_told(pictures, caplog):
    long = "a dog " + "on very green grass " * 125
    _, table = caption_set(pictures, Says(long, "a cat"), tokens=lambda text: len(text.split()))
    count = len(table[0].caption.split()) + 2
    assert table[0].too_long and not table[1].too_long and table[0].tokens == count > 500
    lines = report(table).splitlines()
    assert lines[0].startswith("2 captions, 1 of them too long")
    assert f"[{count}/77 tokens] of 77 the rest is not read" in lines[1] and lines[2].endswith("/77 tokens]")
    assert "0.png" in caplog.text and "1.png" not in caplog.text
    assert report(caption_set(pictures, Says("a dog"))[1]).splitlines()[1].endswith("a sks dog")


def test_bad_input_is_told(pictures, tmp_path):
    with pytest.raises(FewShotError, match="choose one of short"):
        CaptionSettings(detail="long")
    with pytest.raises(FewShotError, match='a subject "abc" that the set does not have'):
        caption_set(pictures, Says("x"), CaptionSettings(("abc: red",)))
    with pytest.raises(FewShotError, match="no pictures of its own"):
        caption_set(pictures.with_samples(pictures.priors), Says("x"))
    relation = TrainingSet(pictures.samples[:1], (Concept("<R>", "on", kind="relation"),))
    with pytest.raises(FewShotError, match="would name it"):
        caption_set(relation, Says("x"))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(FewShotError, match="holds a vit"):
        open_captioner(tmp_path, CPU)


@pytest.mark.parametrize(
    "caption, bind, expected",
    [
        ("a dog with a red collar on grass", "red collar", "a dog on grass"),
        ("a brown dog, brown and happy", "brown", "a dog, and happy"),
        ("a dog wearing a hat.", "hat", "a dog"),
        ("an old dog", "old", "a dog"),
        ("a dog with hats and a ball", "hat", "a dog and a ball"),
        ("a dog", "dog", "a dog"),
        ("a dog on grass", "", "a dog on grass"),
    ],
)
def test_bound_words_go_and_the_rest_stays_whole(caption, bind, expected):
    (out,) = words_to_omit((DOG,), (bind,) if bind else ())
    assert without_words(caption, out, DOG) == expected


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from("a red dog with collar collars on grass and hats wearing , the brown".split()), max_size=12
    ),
    st.sets(st.sampled_from(["red", "collar", "hat", "brown"])),
)
def test_no_bound_word_is_left(tokens, bind):
    left = without_words(" ".join(tokens), frozenset(bind), DOG)
    assert not {singular(word) for word in words(left)} & bind
    assert ("dog" in tokens) == ("dog" in words(left))
