"""Priors looked at: what is rejected and why, and that what was seen once is not looked at again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from comfyui_fewshot.augmentation.priors import generate
from comfyui_fewshot.augmentation.priors.filter import MAX_SIMILARITY, Filters, PriorCandidate, pixel_std, select_priors
from comfyui_fewshot.augmentation.priors.generate import PriorSettings, generate_priors
from comfyui_fewshot.core.context import RunContext
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.values import BaseModelRef, Concept, Loaded, TrainingSet
from comfyui_fewshot.vision.segmenters.interface import Instance

CAT = TrainingSet((), (Concept("sks", "cat"),))


class Planted:
    """A CLIP whose embedding of a picture is the direction of its first pixel, and of the text red."""

    def __init__(self):
        self.looked = 0

    def images(self, images):
        self.looked += len(images)
        values = torch.tensor([image.getpixel((0, 0)) for image in images]).double() + 1
        return torch.nn.functional.normalize(values, dim=-1)

    def texts(self, texts):
        assert texts == ["a photo of a cat"]
        return torch.tensor([[1.0, 0.0, 0.0]])


class Finds:
    """A finder that sees the class in as many columns as the second pixel is red."""

    threshold = 0.5

    def __init__(self):
        self.opened = 0

    def __call__(self):
        self.opened += 1
        return self

    def find(self, picture, phrases, threshold):
        assert phrases == ["cat"]
        mask = np.zeros((picture.height, picture.width), bool)
        mask[:, : picture.getpixel((1, 0))[0]] = True
        return [Instance((0, 0, 1, 1), 0.9 if mask.any() else 0.2, "cat", mask)]


def picture_for(first, second=(50, 0, 0)):
    values = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    values[0, 0], values[0, 1] = first, second
    return Image.fromarray(values)


def candidates(folder, *pictures):
    found = []
    for index, picture in enumerate(pictures):
        picture.save(folder / f"{index:05d}.png")
        found.append(PriorCandidate(index, folder / f"{index:05d}.png", pixel_std(picture)))
    return found


def test_black_and_flat_pictures_are_always_rejected(tmp_path):
    good = picture_for((255, 0, 0))
    some = candidates(tmp_path, Image.new("RGB", (64, 64)), good, Image.new("RGB", (64, 64), (9, 99, 9)), good)
    kept, reasons = select_priors(some, "cat", 4, Filters(), tmp_path)
    assert kept == [1, 3] and reasons == {0: "black or flat", 2: "black or flat"}
    assert select_priors(some, "cat", 1, Filters(), tmp_path)[0] == [1]


def test_what_does_not_show_the_class_is_rejected_against_the_batch(tmp_path):
    """Nine pictures of nine hues between red and orange, and a blue one, which is below mean - sigma."""
    shown = [picture_for((255, 45 * n, 0)) for n in range(5)] + [picture_for((0, 0, 255))]
    kept, reasons = select_priors(candidates(tmp_path, *shown), "cat", 9, Filters(Planted()), tmp_path)
    fits = Planted().images(shown)[:, 0].numpy()
    expected = [i for i in range(6) if fits[i] >= fits.mean() - fits.std()]
    assert sorted(kept + [i for i, why in reasons.items() if "looks as" in why]) == expected
    assert reasons[5] == f"CLIP-T {fits[5]:.3f} is below {fits.mean() - fits.std():.3f}"


def test_of_twins_the_first_is_kept_and_of_too_many_the_best(tmp_path):
    shown = [picture_for(c) for c in ((200, 200, 0), (255, 0, 0), (255, 9, 0), (200, 0, 190), (230, 130, 0))]
    kept, reasons = select_priors(candidates(tmp_path, *shown), "cat", 9, Filters(Planted()), tmp_path)
    assert reasons[2] == "looks as picture 1 does" and 1 in kept
    best, _ = select_priors(candidates(tmp_path, *shown), "cat", 2, Filters(Planted()), tmp_path)
    fits = Planted().images(shown)[:, 0]
    assert best == sorted(sorted(kept, key=lambda i: -fits[i])[:2])


@settings(max_examples=40, deadline=None)
@given(colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=8), count=st.integers(1, 9))
def test_all_kept_pictures_differ_and_none_is_lost(tmp_path_factory, colours, count):
    folder = tmp_path_factory.mktemp("some")
    kept, reasons = select_priors(
        candidates(folder, *map(picture_for, colours)), "cat", count, Filters(Planted()), folder
    )
    assert len(kept) <= count and not set(kept) & set(reasons) and kept == sorted(kept)
    if len(kept) < count:
        assert len(kept) + len(reasons) == len(colours)
    looks = Planted().images([picture_for(colours[i]) for i in kept]) if kept else torch.zeros(0, 3)
    alike = looks @ looks.T - torch.eye(len(kept))
    assert not kept or alike.max() <= MAX_SIMILARITY + 1e-6


def test_the_class_must_be_found_in_a_fair_part(tmp_path):
    shown = [picture_for((255, 0, 0), (columns, 0, 0)) for columns in (0, 1, 3, 50, 89, 99)]
    kept, reasons = select_priors(candidates(tmp_path, *shown), "cat", 9, Filters(finder=Finds()), tmp_path)
    assert kept == [2, 3, 4]
    assert reasons == {0: "no cat is found", 1: "cat covers 1% of it", 5: "cat covers 99% of it"}


def test_what_was_seen_is_not_looked_at_again(tmp_path, caplog):
    some = candidates(tmp_path, *[picture_for((255, 60 * n, 0)) for n in range(4)])
    eyes, finder = Planted(), Finds()
    first = select_priors(some[:3], "cat", 4, Filters(eyes, finder, "k"), tmp_path)
    assert select_priors(some[:3], "cat", 4, Filters(eyes, finder, "k"), tmp_path) == first
    assert (eyes.looked, finder.opened) == (3, 1)
    both = select_priors(some, "cat", 4, Filters(eyes, finder, "k"), tmp_path)
    assert (eyes.looked, finder.opened) == (4, 2)
    assert select_priors(some, "cat", 4, Filters(eyes, finder, "other models"), tmp_path) == both and eyes.looked == 8
    (tmp_path / "seen_k.npz").write_bytes(b"half of it")
    assert select_priors(some, "cat", 4, Filters(eyes, finder, "k"), tmp_path) == both and eyes.looked == 12
    assert "is made again" in caplog.text


# --------------------------------------------------------------------------------------------------------- drawing


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`generate_priors` with a base that draws what `draw(number)` gives; counts pictures and openings."""
    state = SimpleNamespace(drawn=0, opened=0, draw=lambda number: picture_for((255, 40 * number % 256, 0)))

    class Opened:
        native_resolution, device, count_tokens = 64, torch.device("cpu"), len

        def __enter__(self):
            state.opened += 1
            return self

        def __exit__(self, *error):
            pass

    def sample(model, prompts, seeds, options, progress):
        found = []
        for seed in seeds:
            number = next(n for n in range(999) if generate.prior_prompts.seed_of(0, n) == seed)
            found.append(torch.from_numpy(np.array(state.draw(number))).permute(2, 0, 1) / 255)
            state.drawn += 1
        return torch.stack(found)

    monkeypatch.setattr(generate, "open_base", lambda *args, **how: Opened())
    monkeypatch.setattr(generate, "sample", sample)
    monkeypatch.setattr(generate.prior_prompts, "one_token_words", lambda count: lambda phrase: True)
    base = BaseModelRef("sd1", tmp_path, "key")

    def run(count, filters=None, **how):
        settings_ = PriorSettings(count=count, **how)
        return generate_priors(
            base, CAT, settings_, RunContext(tmp_path / "cache", torch.device("cpu")), filters=filters
        )

    state.run = run
    return state


def test_a_quarter_more_is_drawn_when_models_look(drawn):
    drawn.draw = lambda number: picture_for(
        [(255, 0, 0), (180, 180, 0), (180, 0, 180), (0, 0, 255), (170, 120, 120)][number]
    )
    made = drawn.run(4, Filters(Planted(), key="k"))
    assert drawn.drawn == 5 == made.drawn and len(made.pictures.priors) == 4
    (one,) = made.rejected
    assert one.reason.startswith("CLIP-T") and one.picture.path.name == "00003.png" and "cat" in one.prompt
    again = drawn.run(4, Filters(Planted(), key="k"))
    assert drawn.drawn == 5 and drawn.opened == 1 and again.drawn == 0 and again.pictures == made.pictures


def test_rejected_ones_are_replaced_in_at_most_three_rounds(drawn, caplog):
    drawn.draw = lambda number: picture_for((255, 0, 0)) if number % 2 else Image.new("RGB", (64, 64))
    made = drawn.run(4)
    assert drawn.drawn == 7 and len(made.pictures.priors) == 3 and drawn.opened == 1  # 4, then 2, then 1 more
    assert "3 of 4 pictures of cat are kept after 3 rounds" in caplog.text
    assert {one.reason for one in made.rejected} == {"black or flat"}


def test_nothing_usable_is_an_error(drawn):
    drawn.draw = lambda number: Image.new("RGB", (64, 64))
    with pytest.raises(FewShotError, match="none of 12 prior pictures of 'cat' is usable: black or flat"):
        drawn.run(4)


def test_a_base_with_a_lora_on_is_refused(tmp_path):
    base = BaseModelRef("sd1", Loaded(dict, "from the graph", patched=32), "key")
    with pytest.raises(FewShotError, match="32 weights patched by a LoRA.*as it was before the LoRA"):
        generate_priors(base, CAT, PriorSettings(count=1), RunContext(tmp_path, torch.device("cpu")))
    assert not list(tmp_path.iterdir())
