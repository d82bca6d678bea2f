"""Withheld words: every side of every layout, taught without its words, and scored between "and" and the word."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from comfyui_fewshot.augmentation.captions.leaks import RELATION_WORDS
from comfyui_fewshot.benchmarks.relation import known_words
from comfyui_fewshot.benchmarks.relation.known_words import FEW, MANY, WORDINGS, KnownWordsBenchmark, Wording, withheld
from comfyui_fewshot.benchmarks.relation.sets import WORD
from comfyui_fewshot.pocket.models.judge import SceneReading, ThingReading
from comfyui_fewshot.pocket.world import pictures, world


def seen(layout, *nouns):
    return SceneReading(tuple(ThingReading(noun, "plain", frozenset(), None) for noun in nouns), "room", layout)


class ShopStub:
    """Draws what a word asks for with a chance that is a function of the source, by the prompt's number."""

    base, device = None, "cpu"

    def __init__(self, folder, shares):
        self.folder, self.sets, self.shares, self.asked = folder, folder / "sets", shares, []

    def locked(self, name):
        return nullcontext()

    def judge_samples(self, adapter, prompts, seed=0, strength=1.0, same=None):
        self.asked.append((adapter, list(prompts)))
        readings = []
        for number, prompt in enumerate(prompts):
            words = prompt.split()
            one, word, other = words[1], words[2], next(w for w in words[3:] if w in world.CLASSES)
            share = self.shares["learned" if adapter else "and" if word == "and" else "own"]
            wording = adapter or next((w for w in WORDINGS if w.word.split()[0] == word), WORDINGS[0])
            nouns = (other, one) if wording.turned else (one, other)
            readings.append(seen(wording.layout if number < share * len(prompts) else "one", *nouns))
        return readings, [0.0] * len(prompts)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    taught = []

    def train(method, base, made, chosen, context):
        wording = next(w for w in WORDINGS if w.layout in method.name and made.references[0].image.path.parent.name
                       .startswith(f"known_{w.layout}_{'turned' if w.turned else 'straight'}"))  # fmt: skip
        taught.append((wording, method, made, chosen))
        return SimpleNamespace(adapter=wording, seconds=0.0)

    monkeypatch.setattr(known_words, "train_with", train)
    monkeypatch.setattr(known_words, "each", lambda function, items: [function(item) for item in items])
    shares = {"own": 1.0, "and": 0.25, "learned": 0.75}
    return KnownWordsBenchmark(ShopStub(tmp_path, shares), quick=False), taught


def test_every_side_of_every_layout_has_a_word():
    assert [(one.layout, one.word) for one in WORDINGS] == [
        ("stacked", "on"), ("stacked", "under"), ("beside", "beside"), ("behind", "behind"), ("behind", "before"),
    ]  # fmt: skip


def test_a_wording_is_shown_in_its_own_order_only():
    on, under, beside = (Wording("stacked", False), Wording("stacked", True), Wording("beside", False))
    assert on.shown(seen("stacked", "cat", "car"), ("cat", "car"))
    assert not on.shown(seen("stacked", "car", "cat"), ("cat", "car"))
    assert under.shown(seen("stacked", "car", "cat"), ("cat", "car"))
    assert all(beside.shown(seen("beside", *nouns), ("cat", "car")) for nouns in (("cat", "car"), ("car", "cat")))
    assert not on.shown(seen("beside", "cat", "car"), ("cat", "car"))
    assert not on.shown(seen("stacked", "cat", "cup"), ("cat", "car"))


def test_the_rows_are_shares_of_the_room(bench):
    rows = {row.name: row for row in bench[0].regained(MANY)}
    assert set(rows) == {"relation.word10", "relation.entities10"}
    share = rows["relation.word10"]
    on, others = (0.75 - 0.25) / (1 - 0.25), 0.75  # "and" shows the first wording on a quarter, and no other
    assert share.value == pytest.approx(100 * (on + 4 * others) / 5) and share.n == 5 and share.interval is None
    assert share.met is False and rows["relation.entities10"].value == 0 and rows["relation.entities10"].met
    bench[0].shop.shares["and"] = 1.0
    with pytest.raises(ValueError, match="no better than 'and': there is no room"):
        bench[0].regained(FEW)


def test_what_is_taught_tells_the_word_nowhere(bench):
    bench[0].regained(FEW)
    assert [wording for wording, *_ in bench[1]] == list(WORDINGS)
    for wording, method, made, chosen in bench[1]:
        words = {word for side in world.LAYOUTS[wording.layout] for phrase in side for word in phrase.split()}
        assert not words & set(method.prepositions) and set(method.prepositions) < RELATION_WORDS
        assert len(made.references) == FEW
        for index, sample in enumerate(made.references):
            things = sample.caption.removesuffix(next(p for p in world.PLACES.values() if sample.caption.endswith(p)))
            assert not words & set(things.split())
            first, second = pictures.pair_of(index)[:: -1 if wording.turned else 1]
            assert sample.caption.startswith(f"a {first} {WORD} a {second} ")
        assert chosen == type(chosen)(preview_prompt=chosen.preview_prompt)


def test_methods_of_different_layouts_are_different_runs():
    assert len({withheld(layout).name for layout in world.LAYOUTS}) == 3
