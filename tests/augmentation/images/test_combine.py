"""Sets joined: concepts unified, samples renumbered, words found subject by subject."""

from pathlib import Path

import pytest

from comfyui_fewshot.augmentation.captions.spans import subject_spans
from comfyui_fewshot.augmentation.images.combine import combine
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import Concept, Part, Picture, Sample, TrainingSet

CAT, CAR = Concept("sks", "cat"), Concept("zwx", "car", "red")


def picture(key):
    return Picture(Path(f"{key}.png"), key, 8, 8)


def one_set(concept, *keys, prior="p"):
    own = tuple(Sample(picture(key), f"a {concept.phrase}", picture(f"{key}-mask")) for key in keys)
    return TrainingSet((*own, Sample(picture(prior), f"a {concept.noun}", role="prior")), (concept,))


def test_samples_keep_their_own_concept():
    both = combine([one_set(CAT, "a", "b"), one_set(CAR, "c", prior="q")])
    assert both.concepts == (CAT, CAR) and both.trigger == "sks cat, zwx red car"
    assert [(s.image.key, s.concept) for s in both.references] == [("a", 0), ("b", 0), ("c", 1)]
    assert [(s.image.key, s.concept) for s in both.priors] == [("p", 0), ("q", 1)]


def test_the_same_comes_once_and_the_first_concept_stays_first():
    one, other = one_set(CAT, "a"), one_set(CAR, "c", prior="q")
    assert combine([one, one]).key == one.key
    assert combine([combine([one, other]), other, one]).key == combine([one, other]).key


def test_composites_are_renumbered():
    both = Sample(picture("x"), "a zwx red car and a sks cat", picture("m"), others=(Part(1, picture("n")),))
    turned = TrainingSet((both,), (CAR, CAT))
    joined = combine([one_set(CAT, "a"), turned])
    assert joined.concepts == (CAT, CAR)
    (sample,) = [s for s in joined.samples if s.others]
    assert (sample.concept, sample.others[0].concept) == (1, 0)
    assert {number: mask.key for number, mask in sample.masks.items()} == {1: "m", 0: "n"}


@pytest.mark.parametrize("other", [Concept("SKS", "dog"), Concept("sks", "cat", "striped")])
def test_one_identifier_for_two_things_is_refused(other):
    with pytest.raises(FewShotError, match='two sets call different things ".*": "sks cat" and .* of its own'):
        combine([one_set(CAT, "a"), one_set(other, "b")])


def test_nothing_is_refused():
    with pytest.raises(FewShotError, match="no set to combine"):
        combine([])


@pytest.mark.parametrize("number", [2, -1])
def test_a_part_of_no_concept_is_refused(number):
    sample = Sample(picture("x"), "a sks cat", others=(Part(number, picture("n")),))
    with pytest.raises(FewShotError, match=f"names concept {number}, but the set has 2"):
        TrainingSet((sample,), (CAT, CAR))


# ------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a photo of a sks cat on the beach", ["sks", "cat"]),
        ("a sks striped cat and a zwx cat", ["sks", "striped", "cat"]),
        ("a zwx cat beside a SKS cat", ["SKS", "cat"]),
        ("a sks beside a zwx cat", ["sks"]),
        ("sks, cat, grass, striped", ["sks", "cat", "striped"]),
        ("a skscat, asks cats", []),
        ("a cat", []),
    ],
)
def test_words_of_one_of_two_subjects_with_one_noun(caption, wanted):
    spans = subject_spans(caption, Concept("sks", "cat", "striped"), [Concept("zwx", "cat")])
    assert [caption[start:end] for start, end in spans] == wanted
