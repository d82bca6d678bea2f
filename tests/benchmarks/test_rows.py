"""Which rows the bench of subjects has, and what stands behind each: what is taught, and with which settings."""

from dataclasses import replace
from functools import partial

import pytest

from comfyui_fewshot.benchmarks import _subject_choice as choice
from comfyui_fewshot.benchmarks import _subject_tuning as tuning
from comfyui_fewshot.benchmarks import subject
from comfyui_fewshot.models.adapters import Full, LoraSpec
from comfyui_fewshot.pocket.judge import Reading
from comfyui_fewshot.trainers.optimisation import OPTIMISERS
from comfyui_fewshot.trainers.presets import PRESETS
from comfyui_fewshot.trainers.settings import SubjectSettings
from comfyui_fewshot.trainers.tuning import check_tuning, sets_of, words_of


class Shop:
    """Trains nothing and keeps what it was asked for; what it samples shows nothing."""

    def __init__(self, folder):
        self.sets, self.asked = folder, []

    def with_priors(self, pictures, count=64):
        return replace(pictures, samples=(*pictures.samples, *self.primed(pictures)))

    @staticmethod
    def primed(pictures):
        return [replace(pictures.samples[0], role="prior", caption=f"a photo of a {pictures.concepts[0].noun}")]

    def train(self, pictures, **settings):
        chosen = SubjectSettings.from_mapping(settings)
        check_tuning(chosen)
        self.asked.append((pictures, chosen))

    def readings(self, adapter, prompts, seed=0, strength=1.0):
        return [Reading((), "nowhere", "one")] * len(prompts)


@pytest.fixture
def bench(tmp_path):
    return subject.Bench(Shop(tmp_path), quick=True)


def named(rows):
    return {row.name for row in rows}


def both(prefix, names):
    return {f"{prefix}.{name}.{kind}" for name in names for kind in ("subject", "prompt")}


def test_every_preset_has_its_rows(bench):
    names = ["poster", "fast", "instructbooth_stage_1", "portrait", "style", "multi_subject", "custom_diffusion",
             "textual_inversion"]  # fmt: skip
    assert len(PRESETS) == len(names) and named(choice.presets(bench)) == both("preset", names)
    by = dict(zip(PRESETS, bench.shop.asked, strict=True))
    for name, (pictures, chosen) in by.items():
        own = {key: value for key, value in PRESETS[name].items() if getattr(chosen, key) != value}
        assert not own and bool(pictures.priors) == bool(chosen.prior_weight), name
        assert not chosen.local_weight or any(sample.mask for sample in pictures.references)
    assert len(by["Multi-subject"][0].concepts) == 2 and len(by["Poster"][0].concepts) == 1
    assert by["Fast"][1].objective == "dco" and by["Fast"][1].token == "direction"


def test_the_baselines_are_what_they_are_called(bench):
    names = ["lora", "textual_inversion", "custom_diffusion", "dreambooth"]
    assert named(bench.baselines()) == both("baseline", names)
    sets = [sets_of(chosen) for _, chosen in bench.shop.asked]
    assert sets == [
        {"cross": LoraSpec(16, 16.0), "self": LoraSpec(16, 16.0)}, {}, {"cross_kv": Full()}, {"all": Full()},
    ]  # fmt: skip
    words = [[(w.word, w.direction) for w in words_of(chosen, pictures)] for pictures, chosen in bench.shop.asked]
    assert words == [[], [("sks", False)], [("sks", False)], []]
    assert [bool(chosen.prior_weight) for _, chosen in bench.shop.asked] == [True, False, True, True]


def test_every_optimiser_has_its_rows(bench):
    """But the one that needs a GPU, where the bench does not run."""
    learned = {"direction"}
    assert named(tuning.optimiser_rows(bench)) == both("optimiser", ({*OPTIMISERS} - {"adamw_8bit"}) | learned)


def test_subjects_trained_apart_differ_in_block_and_word_only(bench):
    for blocks in (False, True):
        bench.shop.asked.clear()
        tuning.apart(bench, bench.pairs[0], 0, blocks)
        (one, first), (two, second) = bench.shop.asked
        assert [c.identifier for c in (*one.concepts, *two.concepts)] == ["sks", "zwx"]
        assert (first.tuning, first.subject_block, second.subject_block) == (
            ("orthogonal", 0, 1) if blocks else ("low_rank", 0, 0)
        )
        assert replace(second, subject_block=0) == first


def test_the_headline_s_rows_are_there(bench):
    """Those that are measured without opening a network."""
    opens = {"local", "fused_rows", "optimiser_rows", "auto_gap", "presets", "baselines"}
    names = set()
    for part in bench.parts:
        name = part.func.__name__ if isinstance(part, partial) else part.__name__
        names |= {name} if name in opens else named(part())
    assert names == opens | {
        "poster.prompt_gain", "poster.subject_loss", "priors.drift_ratio", "multi.both", "multi.gain",
        "description.gain", "tuning.cross", "tuning.cross_self", "tuning.cross_self_text",
    }  # fmt: skip
