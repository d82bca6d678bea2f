"""The grid of prior prompts: the class in many views, in words that the model knows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfyui_fewshot.augmentation.priors.prompts import grid, one_token_words, own, seed_of, walk
from comfyui_fewshot.core.text.prompts import with_article
from comfyui_fewshot.pocket.world.words import build


@pytest.mark.parametrize(
    ("noun", "wanted"),
    [
        ("cat", "a cat"), ("owl", "an owl"), ("teddy bear", "a teddy bear"), ("sunglasses", "sunglasses"),
        ("bus", "a bus"), ("glass", "a glass"), ("the moon", "the moon"),
    ],
)  # fmt: skip
def test_articles(noun, wanted):
    assert with_article(noun) == wanted


def test_living_things_have_poses():
    assert "a photo of a corgi dog running in the snow" in grid("corgi dog")
    for noun in ("fish", "corgi", "poodle", "astronaut", "old man", "people", "animal"):
        assert any("running" in prompt for prompt in grid(noun)), noun
    assert not any("running" in prompt for noun in ("backpack", "car", "teddy bear toy") for prompt in grid(noun))
    assert "a close-up photo of a backpack seen from the side in a park" in grid("backpack")
    assert len(grid("dog")) == len(set(grid("dog"))) > 500


def test_only_known_words(tmp_path):
    tokenizer = build(tmp_path)
    prompts = grid("cat", one_token_words(lambda text: len(tokenizer.tokenize(text))))
    assert set(prompts) > {"a photo of a cat", "a picture of a cat on the beach", "a photo of a cat at night"}
    assert not any(word in " ".join(prompts) for word in ("running", "kitchen", "close-up"))


def test_own_templates():
    given = ["{noun}", "a {noun} here", "an {noun}", "the {noun}", "no noun"]
    assert own(given, "owl") == ["an owl", "an owl here", "an owl", "the owl", "no noun"]


@given(st.integers(0, 2**48), st.integers(1, 40), st.integers(1, 40))
def test_the_walk_visits_all_before_any_comes_again(seed, size, count):
    prompts = [f"prompt {i}" for i in range(size)]
    chosen = walk(prompts, seed, count)
    assert len(chosen) == count and len(set(chosen)) == min(size, count)
    assert walk(prompts, seed, count + 7)[:count] == chosen, "entry i does not depend on the count"


def test_streams_differ():
    assert len({seed_of(seed, index) for seed in range(20) for index in range(50)}) == 1000
    assert all(0 <= seed_of(3, i) < 2**48 for i in range(20))
