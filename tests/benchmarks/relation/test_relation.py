"""Which rows the bench of relations has, what stands behind each, and that what is judged was not shown."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest

from comfyui_fewshot.benchmarks.relation import parts
from comfyui_fewshot.benchmarks.relation.parts import (
    FEW,
    MANY,
    METHODS,
    TRAINED_METHODS,
    RelationBenchmark,
    RelationRun,
    shows_relation,
    unseen_pairs,
)
from comfyui_fewshot.benchmarks.relation.sets import EXPANDED, LEAKING, LEAKS, PLAIN, WORD, set_of
from comfyui_fewshot.pocket.models.judge import SceneReading, ThingReading
from comfyui_fewshot.pocket.world import pictures, world
from comfyui_fewshot.pocket.world.words import build
from comfyui_fewshot.trainers.relation.method import related
from comfyui_fewshot.trainers.relation.settings import RelationSettings


class RelationWorkshopStub:
    """Trains nothing; what it samples is a dream of the first thing asked for, and the judges doubt it."""

    base, device, steps = None, "cpu", 7

    def __init__(self, folder):
        self.folder, self.sets, self.asked = folder, folder / "sets", []

    def locked(self, name):
        return nullcontext()

    def judge_samples(self, adapter, prompts, seed=0, strength=1.0, same=None):
        self.asked.append((adapter, list(prompts), seed))
        words = [prompt.split() for prompt in prompts]
        seen = [[ThingReading(word[i], "plain", frozenset(), None) for i in (1, 4)] for word in words]
        return [SceneReading(tuple(things), "nowhere", "dream") for things in seen], [0.25] * len(prompts)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A bench whose trainings are written down: (set, settings, whether captions are looked at)."""
    learned = []

    def trained(pictures, settings, checked):
        learned.append((pictures, settings, checked))
        return type("Result", (), {"adapter": settings, "seconds": 0.0})

    monkeypatch.setattr(parts, "train_relation", lambda base, made, chosen, *_, **__: trained(made, chosen, True))
    monkeypatch.setattr(parts, "train_with", lambda _, base, made, chosen, *__, **___: trained(made, chosen, False))
    monkeypatch.setattr(parts, "each", lambda function, items: [function(item) for item in items])
    return RelationBenchmark(RelationWorkshopStub(tmp_path), quick=False), learned


def test_all_rows_of_the_issue_are_there(bench):
    made = {row.name: row for part in bench[0].parts.values() for row in part()}
    kinds = [f"{kind}.{name}" for kind in ("entity", "relation") for name in ("base_and", *METHODS)]
    issue = {"ours", "reversion", "captions", "gan_literal", "gan_sensible", "gan_sequential"}
    assert {*METHODS} == issue | {"ours_adapter"}
    assert set(made) == {
        *kinds, "ours.entity_gain", "ours.relation_loss", "reversion10.relation", "reversion10.entity",
        "steering.on_off", "focal.on_off", "steering.entity_on_off", "focal.entity_on_off", "relation.beyond",
        *(f"relation.beyond.{name}" for name in world.HIDDEN),
    }  # fmt: skip
    assert [made[name].goal for name in ("ours.entity_gain", "ours.relation_loss", "reversion10.relation")] == [
        15, -8, 60,
    ]  # fmt: skip
    assert all(made.pop(f"relation.beyond.{name}").n == 2 for name in world.HIDDEN)
    assert all(row.n == 6 and "disagree on 25 %" in row.note for row in made.values())
    assert "tell the relation" in made["entity.captions"].note and made["entity.ours"].value == 100
    assert made["relation.ours"].value == pytest.approx(100 / 3)  # a dream where one of three was asked for


def test_methods_differ_in_what_they_are_called_after(bench):
    shop, learned = bench
    plain = RelationSettings(steps=7, seed=1)
    found = {}
    for name in TRAINED_METHODS:
        shop.train(name, RelationRun("tied", 1))
        found[name] = learned[-1]
    settings = {name: replace(one[1], preview_prompt=plain.preview_prompt) for name, one in found.items()}
    assert settings["ours"] == plain and settings["reversion"] == replace(plain, token="free")
    assert settings["captions"] == settings["reversion"] == settings["reversion10"]
    free = settings["reversion"]
    assert settings["gan_literal"] == settings["gan_sensible"]
    assert METHODS["gan_literal"].training is not METHODS["gan_sensible"].training
    assert settings["gan_sensible"] == replace(free, adversarial="sensible")
    assert settings["gan_sequential"] == replace(free, adversarial="sensible", adversarial_order="sequence")
    assert settings["no_steering"] == replace(plain, steering_weight=0.0)
    assert settings["no_focal"] == replace(plain, focal=0.0)
    shown = {name: len({sample.image.key for sample in one[0].references}) for name, one in found.items()}
    assert shown == dict.fromkeys(TRAINED_METHODS, FEW) | {"reversion10": MANY}
    assert [name for name, one in found.items() if not one[2]] == [
        "captions", "gan_literal", "gan_sensible", "gan_sequential",
    ]  # fmt: skip


@pytest.mark.parametrize("name", world.HIDDEN)
def test_captions_are_in_the_pocket_s_words(tmp_path, name):
    """Whole words of its vocabulary with the picture's place; a third of the leaking ones tell, and no others."""
    folder, tokenizer = tmp_path / name, build(tmp_path / "tokenizer")
    sets = {kind: set_of(folder, name, FEW, kind) for kind in (PLAIN, EXPANDED, LEAKING)}
    for made in sets.values():
        assert sum(sample.weight for sample in made.references) == pytest.approx(FEW)
        for sample in made.references:
            text = sample.caption.replace(WORD, "and")
            assert set(text.split()) <= {*world.vocabulary(), "an"} and "," not in text
            assert any(text.endswith(place) for place in world.PLACES.values())
            assert len(tokenizer(text).input_ids) <= 32
    counts = {kind: Counter(s.image.key for s in made.references) for kind, made in sets.items()}
    assert set(counts[PLAIN].values()) == {1} and min(counts[EXPANDED].values()) >= 3
    assert len(related(sets[EXPANDED]).references) == len(sets[EXPANDED].references)
    kept = {sample.caption for sample in related(sets[LEAKING]).references}
    leaking = [sample.caption for sample in sets[LEAKING].references if LEAKS[name] in sample.caption.split()]
    assert kept == {sample.caption for sample in sets[EXPANDED].references} and not kept & set(leaking)
    assert len(leaking) == pytest.approx(len(sets[LEAKING].references) / 3, abs=1)


def test_judged_pairs_were_not_shown(bench):
    for count in (FEW, MANY):
        shown = {frozenset(pictures.pair_of(index)) for index in range(count)}
        assert len(shown) == count and not shown & {frozenset(pair) for pair in unseen_pairs(count)}
    bench[0].judge(("ours", RelationRun("dream", 1)))
    _, prompts, seed = bench[0].shop.asked[-1]
    assert len(prompts) == 40 and seed == 1 and all(f" {WORD} " in prompt for prompt in prompts)
    bench[0].judge(("base_and", RelationRun("dream", 0)))
    assert [p.replace("and", WORD) for p in bench[0].shop.asked[-1][1]] == prompts


def test_things_in_changed_places_do_not_show_a_relation_with_a_direction():
    things = tuple(ThingReading(noun, "plain", frozenset(), None) for noun in ("cat", "car"))
    for layout, turned in (("dream", False), ("framed", False), ("tied", True)):
        reading = SceneReading(things, "room", layout)
        assert (
            shows_relation(reading, layout, ("cat", "car"))
            and shows_relation(reading, layout, ("car", "cat")) is turned
        )
        assert shows_relation(reading, layout, ("cat", "cup")) and not shows_relation(reading, "beside", ("cat", "car"))
