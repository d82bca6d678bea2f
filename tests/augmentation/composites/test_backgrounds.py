"""Backgrounds: simple, and named by their colours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfyui_fewshot.augmentation.composites import backgrounds
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.tests.augmentation.composites.cut_outs import MAX_SEED


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(backgrounds.KINDS), size=st.integers(1, 70), seed=st.integers(0, MAX_SEED))
def test_grounds_are_simple_and_named(kind, size, seed):
    made = backgrounds.make_background(kind, size, np.random.default_rng(seed))
    values = np.asarray(made.picture)
    assert values.shape == (size, size, 3) and made.words.startswith("on a ") and made.words.endswith(" background")
    assert 0 < values.max() and values.min() < 255
    again = backgrounds.make_background(kind, size, np.random.default_rng(seed))
    assert again.words == made.words and np.array_equal(np.asarray(again.picture), values)
    if kind == "solid":
        assert len(made.picture.getcolors()) == 1
        assert backgrounds.colour_word(tuple(values[0, 0])) in made.words


@pytest.mark.parametrize(
    ("colour", "word"),
    [((250, 250, 250), "white"), ((128, 128, 128), "grey"), ((200, 215, 245), "light blue"), ((90, 60, 30), "brown"),
     ((245, 225, 200), "beige"), ((20, 20, 22), "black"), ((20, 90, 30), "dark green"), ((255, 0, 0), "red")],
)  # fmt: skip
def test_colours_have_the_names_people_use(colour, word):
    assert backgrounds.colour_word(colour) == word


def test_all_kinds_of_ground_come_up():
    words = " ".join(backgrounds.make_background("any", 8, np.random.default_rng(seed)).words for seed in range(40))
    assert "plain" in words and "gradient" in words and "mottled" in words
    with pytest.raises(FewShotError, match="no background 'forest'"):
        backgrounds.make_background("forest", 8, np.random.default_rng(0))
