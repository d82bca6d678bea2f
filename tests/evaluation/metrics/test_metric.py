"""What metrics share: identifiers are stripped, intervals are honest."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.statistics import bootstrap_interval, paired_interval
from comfyui_fewshot.core.text.prompts import prompt_of, strip_identifiers
from comfyui_fewshot.core.values import Concept, Prompt
from comfyui_fewshot.evaluation.metrics.metric import check_pairs

CAT, BEAR = Concept("sks", "cat"), Concept("[V]", "teddy bear", "brown")
DREAM = Concept("<R>", "", "dreaming of", kind="relation")


@pytest.mark.parametrize(
    ("text", "concepts", "wanted"),
    [
        ("a photo of a sks cat", [CAT], "a photo of a cat"),
        ("A photo of an SKS cat", [CAT], "A photo of a cat"),
        ("a sks orange cat", [CAT], "an orange cat"),
        ("A sks owl", [CAT], "An owl"),
        ("sks cat, outdoors", [CAT], "cat, outdoors"),
        ("sks, cat, outdoors", [CAT], "cat, outdoors"),
        ("a cat, sks, outdoors", [CAT], "a cat, outdoors"),
        ("asks a sksy cat", [CAT], "asks a sksy cat"),
        ("a [V] brown teddy bear and sks cat.", [CAT, BEAR], "a brown teddy bear and cat."),
        ("a cat <R> a box", [DREAM], "a cat dreaming of a box"),
        ("sks", [CAT], ""),
        ("a cat", [], "a cat"),
        ("a cat in a basket", [Concept("", "cat")], "a cat in a basket"),
    ],
)
def test_strip_identifiers(text, concepts, wanted):
    assert strip_identifiers(text, concepts) == wanted


@given(st.lists(st.sampled_from(["a", "an", "sks", "SKS", "[V]", "<R>", "cat", "owl", ",", ".", "in"]), max_size=12))
def test_no_identifier_is_left(words):
    once = strip_identifiers(" ".join(words), [CAT, BEAR, DREAM])
    assert not {"sks", "[v]", "<r>"} & set(once.lower().replace(",", " ").replace(".", " ").split())
    assert once.count("cat") == words.count("cat") and ("dreaming of" in once) == ("<R>" in words)


@given(st.text(alphabet="ask tcow", max_size=40).filter(lambda text: "sks" not in text))
def test_other_texts_stay(text):
    assert strip_identifiers(text, [CAT, BEAR]) == " ".join(text.split())


def test_prompts():
    assert prompt_of("a sks cat", [CAT]) == Prompt("a sks cat", "a cat")


def test_pairs():
    with pytest.raises(FewShotError, match="there are no pictures"):
        check_pairs([], [])
    with pytest.raises(FewShotError, match="1 pictures cannot be scored for 2 prompts"):
        check_pairs([Image.new("RGB", (8, 8))], [Prompt("a", "a")] * 2)


def test_the_interval_holds_the_mean_and_is_the_same_again():
    values = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    first = bootstrap_interval(values)
    assert first.low < first.mean < first.high and first == bootstrap_interval(values) and first.n == 40
    spread = torch.tensor(values).std() / 40**0.5
    assert first.high - first.low == pytest.approx(2 * 1.96 * float(spread), rel=0.15), "as the normal approximation"
    narrow = bootstrap_interval(values, level=0.5)
    assert first.low < narrow.low < narrow.high < first.high


def test_the_interval_covers_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    draws = [bootstrap_interval(torch.randn(30, generator=generator).tolist(), resamples=400) for _ in range(300)]
    assert 0.88 < sum(d.low < 0 < d.high for d in draws) / 300 < 0.98


def test_pictures_of_one_run_are_not_independent():
    values, runs = [0.0] * 30 + [1.0] * 10, ["a"] * 30 + ["b"] * 10
    assert bootstrap_interval(values, runs).mean == 0.5 and bootstrap_interval(values, runs).n == 2
    assert bootstrap_interval(values, ["a"] * 40) == bootstrap_interval([0.25])
    assert bootstrap_interval([0.25]).low is None


def test_paired():
    before = torch.randn(20, generator=torch.Generator().manual_seed(2)).tolist()
    shifted = paired_interval([b + 0.1 for b in before], before)
    assert shifted.mean == pytest.approx(0.1) and shifted.high - shifted.low < 1e-9
    with pytest.raises(FewShotError, match="are no pairs"):
        paired_interval([1.0], before)


@pytest.mark.parametrize(
    ("values", "how"), [([], {}), ([float("nan")], {}), ([1.0], {"groups": []}), ([1.0, 2.0], {"level": 95})]
)
def test_no_interval(values, how):
    with pytest.raises(FewShotError):
        bootstrap_interval(values, **how)
