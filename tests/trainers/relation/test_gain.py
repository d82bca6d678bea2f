"""Readings of how much a word explains: what they measure, that they change nothing, and what is warned of."""

import json
import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from comfyui_fewshot.augmentation.images.relation_pictures import relation_from_folder
from comfyui_fewshot.core.atomic import write_whole
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import Adapter
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.pocket.models.weights import WEIGHTS
from comfyui_fewshot.pocket.world import drawing, world
from comfyui_fewshot.pocket.world.pictures import pair_of
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.data.encoded_set import encode_set
from comfyui_fewshot.trainers.relation.gain import Gain, GainReader, between_pictures, drawn, explained
from comfyui_fewshot.trainers.relation.method import train_relation
from comfyui_fewshot.trainers.relation.settings import RelationSettings
from comfyui_fewshot.trainers.validation import schedule as best_checkpoint
from comfyui_fewshot.trainers.validation.schedule import FILE, read_readings

from .relating import CHOSEN, WORD, captioned_folder, train_small

POCKET = WEIGHTS


@pytest.fixture(scope="module")
def relation(picture_folder, tmp_path_factory):
    return relation_from_folder(captioned_folder(picture_folder, tmp_path_factory.mktemp("relation")), WORD)


@pytest.fixture(scope="module")
def train(wordy_base, relation):
    return partial(train_small, wordy_base, relation)


@pytest.fixture(scope="module")
def opened(wordy_base):
    with open_base(wordy_base, torch.device("cpu")) as model:
        yield model


def reader_of(model, relation):
    settings = replace(CHOSEN, resolution=32, micro_batch=4)
    pool = encode_set(model, relation.references, 32, NullProgress(), live_text=True)
    return GainReader(model, pool, relation, settings, NullProgress())


def test_the_word_it_began_as_takes_no_error_away(opened, relation):
    """And another one some or adds some; every reading sees the same draws."""
    reader = reader_of(opened, relation)
    table = opened.text_encoders[0].get_input_embeddings().weight.detach()

    def read(text):
        vector = table[opened.tokenizers[0](text, add_special_tokens=False).input_ids].clone()
        with applied(opened, [(Adapter({}, "sd1", WORD, {WORD: {"clip_l": vector}}), 1.0)]):
            return reader(3)

    assert read("and") == Gain(3, 0.0, 0.0) and not read("and").sure
    other = read("house")
    assert other.share != 0 and other.error > 0 and read("house") == other


def test_draws_are_even_over_pictures_captions_and_noise(relation):
    """Three pictures, the first with two captions."""
    draws = drawn(relation.references)
    each = [[draw for draw in draws if draw.picture == picture] for picture in range(3)]
    assert {len(own) for own in each} == {22} and 0 < draws[0].place < draws[21].place < 1
    assert [draw.row for draw in each[0][:4]] == [0, 1, 0, 1] and {draw.row for draw in each[2]} == {3}
    many = [replace(relation.samples[0], image=replace(relation.samples[0].image, key=str(i))) for i in range(70)]
    assert len({draw.picture for draw in drawn(many)}) == 24 and len(drawn(many)) == 24 * 8


def test_a_reading_looks_at_what_is_drawn_only(opened, relation, monkeypatch):
    """Captions in no draw are not encoded; no more pictures at once than a step has room for, and two at least."""
    encoded, widths = [], []
    encode, predict = opened.encode_prompts, opened.predict
    monkeypatch.setattr(opened, "encode_prompts", lambda texts: encoded.append(list(texts)) or encode(texts))
    monkeypatch.setattr(
        opened, "predict", lambda latents, *rest: widths.append(len(latents)) or predict(latents, *rest)
    )
    reader = reader_of(opened, relation)
    reader.draws = tuple(draw for draw in reader.draws if draw.row == 2)[:5]
    found = {}
    with applied(opened, [(Adapter({}, "sd1", WORD, {WORD: {"clip_l": torch.full((1, width(opened)), 0.1)}}), 1.0)]):
        for micro_batch in (1, 4, 100):
            reader.settings, reader.first = replace(reader.settings, micro_batch=micro_batch), None
            found[micro_batch] = reader(0).share
            assert widths == {1: [2, 2, 1], 4: [4, 1], 100: [5]}[micro_batch] * 2
            widths.clear()
    assert encoded[:2] == [["bird and house"], ["bird <R> house"]] and found[1] == pytest.approx(found[100], abs=1e-5)


def test_only_the_word_itself_is_replaced(opened, relation):
    """Not where its letters stand in another word."""
    reader = reader_of(opened, relation)
    reader.word = "rel"
    assert reader._plain("a barrel rel a car, embedding:rel") == "a barrel and a car, and"


@pytest.mark.parametrize(
    "text", ["[]", '{"readings": [{"step": 1}]}', '{"readings": [{"step": 1, "share": null}]}', "{"]
)
def test_a_damaged_file_of_readings_harms_nothing(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    assert "could not be measured" in explained(read_readings(tmp_path / FILE), RelationSettings())


def test_a_full_disk_loses_no_reading(train, tmp_path, monkeypatch):
    """The last one, that could not be written, is taken again when the run goes on."""
    uncut = train(tmp_path / "uncut", validate_every=4)
    with monkeypatch.context() as full:
        full.setattr(best_checkpoint, "write_whole", full_after(2))
        with pytest.raises(FewShotError, match="no space"):
            train(tmp_path / "cut", validate_every=4)
    again = train(tmp_path / "cut", validate_every=4)
    assert readings_in(again.folder) == readings_in(uncut.folder) and again.resumed_from == 8


def full_after(times):
    left = [times]

    def write(path, data):
        left[0] -= 1
        if left[0] < 0:
            raise FewShotError("no space")
        return write_whole(path, data)

    return write


def width(model):
    return model.text_encoders[0].config.hidden_size


def test_the_spread_between_pictures_is_what_counts():
    """One picture learned by heart is no relation, however sure its draws are."""
    assert between_pictures([3.0, 3.0, -1.0, -1.0], [0, 0, 1, 1]) == (1.0, 2.0)
    assert between_pictures([1.0, 1.2, 1.2, 1.0], [0, 0, 1, 1]) == pytest.approx((1.1, 0.0))
    assert between_pictures([0.0, 2.0], [5, 5]) == (1.0, 1.0)
    assert not Gain(1, 1.0, 0.5).sure and Gain(1, 1.1, 0.0).sure and not Gain(1, math.nan, math.nan).sure


def test_readings_change_nothing_and_are_told(train, tmp_path, caplog):
    """At the start, every so many steps and at the end; with 0 there are none, and the word is the same."""
    told = Heard()
    with caplog.at_level("INFO"):
        measured = train(tmp_path / "a", told, validate_every=3)
    plain = train(tmp_path / "b", validate_every=0)
    assert torch.equal(*(r.adapter.embeddings[WORD]["clip_l"] for r in (measured, plain)))
    assert measured.terms == plain.terms and measured.chosen == 8 and measured.validation is None
    rows = readings_in(measured.folder)
    assert [row["step"] for row in rows] == [0, 3, 6, 8] and len({row["share"] for row in rows}) == 4
    assert [text.split(":")[0] for text in told.texts if "than with 'and'" in text] == [
        f"measured after step {step}" for step in (0, 3, 6, 8)
    ]
    said = explained(measured.readings, RelationSettings())
    best = max(rows, key=lambda row: row["share"] - 2 * row["error"])
    assert "3: " in said.splitlines()[0] and f"{100 * best['share']:.2f} % (give or take" in said
    assert not (plain.folder / FILE).exists()
    assert "was not measured" in explained(plain.readings, RelationSettings(validate_every=0))


def test_a_failed_reading_harms_nothing(train, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("comfyui_fewshot.trainers.relation.gain.squared_error", lambda *_: 1 / 0)
    result = train(tmp_path, validate_every=4)
    assert len(result.losses) == 8 and "the reading after step 4 failed" in caplog.text
    assert "could not be measured" in explained(result.readings, RelationSettings())


@pytest.mark.parametrize("look", [0, 12, 30])
def test_readings_of_a_cut_run_are_those_of_an_uncut_one(train, tmp_path, look):
    """Wherever the run is cut, amid a reading too."""
    uncut = train(tmp_path / "uncut", validate_every=2)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Stops(look), validate_every=2)
    again = train(tmp_path / "cut", validate_every=2)
    assert readings_in(again.folder) == readings_in(uncut.folder)
    assert torch.equal(*(r.adapter.embeddings[WORD]["clip_l"] for r in (again, uncut))) and again.terms == uncut.terms


def readings_in(folder):
    return json.loads((folder / FILE).read_text())["readings"]


class Heard(NullProgress):
    def __init__(self):
        self.texts = []

    def report(self, done, total, text="", picture=None, metrics=None):
        self.texts.append(text)


class Stops(NullProgress):
    """Interrupts at the check that follows `look` checks."""

    def __init__(self, look):
        self.left = look

    def check(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_pictures_without_a_common_relation_are_warned_of(tmp_path, caplog):
    """On the pocket: ten pictures of one hidden relation, and ten that show any of six, as the base's "and" does."""
    settings = RelationSettings(
        steps=40, batch_size=8, focal=1.0, token_learning_rate=0.02, steering_weight=0.0, validate_every=20
    )
    base = base_from_path(POCKET)
    said = {}
    for name, layouts in {"one": ["framed"] * 10, "any": [*world.LAYOUTS, *world.HIDDEN] * 2}.items():
        found = relation_from_folder(write_scenes(tmp_path / name, layouts[:10]), WORD)
        readings = train_relation(base, found, settings, TrainingContext(tmp_path / "runs", "cpu")).readings
        caplog.clear()
        said[name] = explained(readings, settings)
        assert ("no better than 'and'" in caplog.text) == (name == "any"), said[name]
    assert "of the error that 'and' in its place leaves" in said["one"]
    assert "may not share a relation" in said["any"]


def write_scenes(folder, layouts):
    """A picture of two different things for each layout, captioned with the word between them."""
    folder.mkdir()
    for number, layout in enumerate(layouts):
        rng = world.rng_of(1, number)
        pair = pair_of(number)
        things = tuple(replace(world.random_thing(rng, 0.3), noun=noun) for noun in pair)
        scene = world.arrange(rng, things, list(world.PLACES)[number % len(world.PLACES)], layout)
        drawing.render(scene)[0].save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a {pair[0]} {WORD} a {pair[1]} {world.PLACES[scene.place]}")
    return folder
