"""Which rows the bench of subjects has, and what stands behind each: what is taught, and with which settings."""

from dataclasses import replace

import pytest
import torch

from comfyui_fewshot.benchmarks.harness import workshop
from comfyui_fewshot.benchmarks.subject import bench as subject
from comfyui_fewshot.benchmarks.subject import checkpoint_choice, default_recipe, training_cases, tuning
from comfyui_fewshot.benchmarks.subject.parts import parts_of
from comfyui_fewshot.benchmarks.subject.training_cases import evaluations_per_step
from comfyui_fewshot.core.values import Dense
from comfyui_fewshot.models.adapters.inject import Full, LoraSpec
from comfyui_fewshot.pocket.models.judge import SceneReading, ThingReading
from comfyui_fewshot.pocket.world import world
from comfyui_fewshot.trainers.optim.optimizers import OPTIMIZERS
from comfyui_fewshot.trainers.subject.method import SubjectTraining
from comfyui_fewshot.trainers.subject.presets import PRESETS
from comfyui_fewshot.trainers.subject.settings import SubjectSettings
from comfyui_fewshot.trainers.targets import sets_of, token_specs

NOTHING = SceneReading((), "nowhere", "one")


class SubjectWorkshopStub:
    """Trains nothing and keeps what it was asked for; what it samples shows nothing."""

    def __init__(self, folder):
        self.sets, self.asked, self.steps, self.doubt = folder, [], 100, 0.0

    def with_priors(self, pictures, count=64):
        return replace(pictures, samples=(*pictures.samples, *self.primed(pictures)))

    @staticmethod
    def primed(pictures):
        return [replace(pictures.samples[0], role="prior", caption=f"a photo of a {pictures.concepts[0].noun}")]

    def train(self, pictures, method=SubjectTraining, **settings):
        chosen = SubjectSettings.from_mapping(settings)
        chosen.check()
        self.asked.append((pictures, chosen))

    def judge_samples(self, adapter, prompts, seed=0, strength=1.0):
        return [NOTHING] * len(prompts), [self.doubt] * len(prompts)


@pytest.fixture(autouse=True)
def in_one_process(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture
def bench(tmp_path):
    return subject.SubjectBenchmark(SubjectWorkshopStub(tmp_path), quick=True)


def named(rows):
    return {row.name for row in rows}


def both(prefix, names):
    return {f"{prefix}.{name}.{kind}" for name in names for kind in ("subject", "prompt")}


def test_every_preset_has_its_rows(bench):
    names = ["poster", "fast", "instructbooth_stage_1", "portrait", "style", "multi_subject", "custom_diffusion",
             "textual_inversion"]  # fmt: skip
    assert len(PRESETS) == len(names) and named(checkpoint_choice.presets(bench)) == both("preset", names)
    by = dict(zip(PRESETS, bench.shop.asked, strict=True))
    for name, (pictures, chosen) in by.items():
        own = {key: value for key, value in PRESETS[name].items() if getattr(chosen, key) != value}
        assert not own and (pictures.priors or not chosen.prior_weight), name
        assert not chosen.local_weight or any(sample.mask for sample in pictures.references)
    assert len(by["Multi-subject"][0].concepts) == 2 and len(by["Poster"][0].concepts) == 1
    assert by["Fast"][1].objective == "dco" and by["Fast"][1].token == "direction"
    assert any(sample.others for sample in by["Multi-subject"][0].references)


def test_the_baselines_are_what_they_are_called(bench):
    names = ["lora", "textual_inversion", "custom_diffusion", "dreambooth"]
    rows = tuning.baseline_rows(bench)
    assert named(rows) == both("baseline", names) and all("NeTI" in row.note for row in rows)
    sets = [sets_of(chosen) for _, chosen in bench.shop.asked]
    assert sets == [
        {"cross": LoraSpec(16, 16.0), "self": LoraSpec(16, 16.0)}, {}, {"cross_kv": Full()}, {"all": Full()},
    ]  # fmt: skip
    words = [[(w.word, w.direction) for w in token_specs(chosen, pictures)] for pictures, chosen in bench.shop.asked]
    assert words == [[], [("sks", False)], [("sks", False)], []]
    assert [bool(chosen.prior_weight) for _, chosen in bench.shop.asked] == [True, False, True, True]


def test_tables_cost_the_same_and_share_what_is_the_same(bench):
    """Every training of a table takes as many denoiser evaluations; the same training is asked for with one key."""
    for name in ("tuning", "baselines", "presets", "losses", "optimisers"):
        parts_of(full(bench))[name].func(bench) if name in ("presets", "losses", "optimisers") else parts_of(bench)[
            name
        ]()
    assert len(bench.shop.asked) > 20
    for _, chosen in bench.shop.asked:
        per_step = evaluations_per_step({name: value for name, value in vars(chosen).items() if name != "steps"})
        assert 0 <= training_cases.TABLE_EVALUATIONS * bench.shop.steps - chosen.steps * per_step < per_step
    assert evaluations_per_step({}) == 24 and evaluations_per_step({"prior_weight": 0.0}) == 12
    assert evaluations_per_step({"objective": "dco", "prior_weight": 0.0, "batch_size": 2}) == 8


def full(bench):
    return replace(bench, quick=False)


def keys(bench, rows):
    bench.shop.asked.clear()
    rows()
    return {(pictures.key, chosen.key()) for pictures, chosen in bench.shop.asked}


def test_the_parts_beside_the_headline_use_its_trainings(bench):
    headline = keys(bench, bench.poster)
    assert len(headline) == 2
    assert len(keys(bench, bench.priors) - headline) == 1
    assert len(keys(bench, bench.description) - headline) == 1
    plain = {name: keys(bench, lambda name=name: bench.fidelity_rows("x", {name: ("anywhere", tuning.BASELINES[name])}))
             for name in ("custom_diffusion", "textual_inversion", "lora")}  # fmt: skip
    presets = keys(bench, lambda: checkpoint_choice.presets(bench))
    assert plain["custom_diffusion"] <= presets and plain["textual_inversion"] <= presets
    assert plain["lora"] <= keys(bench, lambda: tuning.optimiser_rows(bench))
    assert plain["lora"] <= keys(bench, bench.tuning)


def test_the_headline_runs_on_all_and_the_tables_on_one(bench):
    whole = full(bench)
    assert len(whole.all_runs) == 26 and len(whole.first_seed_runs) == 13 and len(whole.table_runs) == 2
    assert {run.seed for run in whole.rare_runs} == {0} and len(whole.rare_runs) == 6
    assert [*parts_of(whole)] == ["poster", "priors", "local", "multi", "description", "default", "auto", "tuning",
                              "baselines", "poster_word", "presets", "recipes", "default_lead", "losses", "optimisers",
                              "fused", "verdicts"]  # fmt: skip
    assert [*parts_of(bench)] == [*parts_of(whole)][:9]


def test_the_default_is_chosen_by_some_subjects_and_reported_on_others(bench):
    assert len(world.TUNING_SUBJECTS) == 5 and len(world.REPORTED_SUBJECTS) == 8
    assert {*world.TUNING_SUBJECTS} | {*world.REPORTED_SUBJECTS} == {*world.SUBJECTS}
    whole = full(bench)
    default_recipe.recipe_rows(whole)
    tuned = subjects_of(bench)
    assert tuned == {subject.name for subject in world.TUNING_SUBJECTS}
    assert len(bench.shop.asked) == 5 * len(default_recipe.RECIPES)
    for rows, others in ((default_recipe.default_rows, 1), (default_recipe.lead_rows, len(PRESETS))):
        bench.shop.asked.clear()
        rows(whole)
        assert subjects_of(bench) - {"cat_striped"} == {subject.name for subject in world.REPORTED_SUBJECTS}
        ours = [chosen for _, chosen in bench.shop.asked[:8]]
        assert all(replace(chosen, steps=-1) == SubjectSettings() for chosen in ours)
        assert len(bench.shop.asked) == 8 * (others + 1)


def subjects_of(bench):
    """The subjects that were trained on; with several in a set, all of them."""
    stems = {sample.image.path.stem for pictures, _ in bench.shop.asked for sample in pictures.references}
    return {one.name for one in world.SUBJECTS if any(stem.startswith(f"{one.name}_") for stem in stems)}


def test_the_default_stands_between_plain_training_and_what_the_base_is_told(bench):
    rows = {row.name: row for row in default_recipe.default_rows(full(bench))}
    kinds = ("both", "subject", "prompt")
    sides = {f"default.{side}.{kind}" for side in ("default", "plain", "described") for kind in kinds}
    assert set(rows) == {*sides, "default.gain"}  # nothing is drawn right, so there is no room to take a share of
    (room,) = default_recipe._room(0.6, 0.4, 0.8, 8, 50.0)
    assert room.value == pytest.approx(50) and room.goal == 50 and "floor 40.0%, ceiling 80.0%" in room.note
    assert default_recipe._room(0.6, 0.8, 0.4, 8, 50.0) == []


def test_the_headline_comes_again_with_a_learned_word_on_both_sides(bench):
    rows = bench.poster_word()
    assert {chosen.token for _, chosen in bench.shop.asked} == {"free"}
    assert all(row.goal is None for row in rows) and "poster.word.prompt_gain" in named(rows)
    assert [row.name.replace(".word", "") for row in rows] == [row.name for row in bench.poster()]


def test_the_headline_s_sides_are_the_product_s_pasting_and_nothing(bench):
    bench.poster()
    (made, chosen), (plain, without) = bench.shop.asked
    assert replace(chosen, local_weight=0.0) == without and chosen.local_weight == 0.05
    pasted = [sample for sample in made.references if sample.pasted]
    assert len(pasted) == 8 * len(plain.references) and not any(s.pasted for s in plain.references)
    assert {s.caption for s in pasted} == {"a photo of a sks cat"} and {s.background for s in pasted} == {0.1}


def test_every_optimiser_and_loss_has_its_rows(bench):
    """Every choice of the settings, but for the optimiser that needs a GPU and what a name elsewhere stands for."""
    optimisers = tuning.optimiser_rows(bench)
    usual = SubjectSettings()
    beside = {"direction", "pivotal"}
    schedules = set(choices("schedule")) - {usual.schedule}
    assert named(optimisers) == both("optimiser", ({*OPTIMIZERS} - {"adamw_8bit"}) | schedules | beside)
    bench.shop.asked.clear()
    losses = ["local", "plain_local", "min_snr", "masked", "noise_offset", "caption_dropout", "dco"]
    assert named(tuning.loss_rows(bench)) == both("loss", losses)
    plain = SubjectSettings.from_mapping({**tuning.LORA, "prior_weight": 1.0})
    for _, chosen in bench.shop.asked:
        normalized = replace(chosen, steps=plain.steps, prior_weight=1.0)
        differs = {name for name in vars(plain) if getattr(normalized, name) != getattr(plain, name)}
        assert differs and differs <= {
            "local_weight", "min_snr_gamma", "background_weight", "noise_offset", "caption_dropout",
            "objective",
        }  # fmt: skip


def choices(setting):
    return SubjectSettings.__dataclass_fields__[setting].metadata["choices"]


def test_every_set_of_layers_is_trained_somewhere(bench):
    for rows in (bench.tuning, lambda: tuning.baseline_rows(bench), lambda: checkpoint_choice.presets(bench)):
        rows()
    assert {chosen.parameter_set for _, chosen in bench.shop.asked} == set(choices("parameter_set"))


def test_subjects_trained_apart_differ_in_block_and_word_only(bench):
    for blocks in (False, True):
        bench.shop.asked.clear()
        training_cases.train_separately(bench.shop, bench.pairs[0], 0, blocks)
        (one, first), (two, second) = bench.shop.asked
        assert [c.identifier for c in (*one.concepts, *two.concepts)] == ["sks", "zwx"]
        assert (first.tuning, first.subject_block, second.subject_block) == (
            ("orthogonal", 0, 1) if blocks else ("low_rank", 0, 0)
        )
        assert replace(second, subject_block=0) == first


def test_joint_trainings_differ_in_composites_and_their_losses(bench):
    assert named(bench.multi()) == {"multi.both", "multi.gain", "multi.described"}
    (made, chosen), (plain, without) = bench.shop.asked
    assert replace(chosen, local_weight=0.0, composite_share=0.25) == without
    assert any(s.others for s in made.references) and not any(s.pasted for s in plain.references)


def test_the_headline_s_rows_are_there(bench):
    found = {name: named(parts_of(bench)[name]()) for name in ("poster", "priors", "multi", "description", "tuning")}
    assert set.union(*found.values()) == {
        "poster.prompt_gain", "poster.subject_loss", "poster.both_gain", "priors.drift_ratio", "multi.both",
        "multi.gain", "multi.described", "description.gain", "description.in_the_prompt_only", "tuning.rise",
        *(f"poster.{side}.{kind}" for side in ("full", "plain") for kind in ("prompt", "subject", "both")),
        *(f"tuning.{name}" for name in subject.TUNED_SETS),
    }  # fmt: skip


def test_a_row_says_when_the_judges_disagree(bench):
    assert {row.note for row in bench.poster()} == {""}
    bench.shop.doubt = 1.0
    rows = [*bench.poster(), *bench.multi(), *bench.priors(), *tuning.baseline_rows(bench)]
    assert all("the judges disagree on 100% of the samples" in row.note for row in rows)


# -------------------------------------------------------------------------------------- parts that open the networks


class SmallWorkshop(workshop.Workshop):
    """Two steps, no priors."""

    def with_priors(self, pictures, count=64):
        return pictures


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(workshop, "STEPS", 2)
    return subject.SubjectBenchmark(SmallWorkshop(2, tmp_path), quick=True)


def test_parts_that_open_networks_run(small, monkeypatch):
    monkeypatch.setattr(checkpoint_choice, "POINTS", 1)
    rows = [*small.local(), *tuning.fused_rows(small), *checkpoint_choice.auto_gap(small)]
    assert named(rows) == {
        "local.iou_before", "local.iou_after", "multi.fused", "multi.summed", "multi.orthogonal", "auto.gap",
    }  # fmt: skip
    values = {row.name: row.value for row in rows}
    assert 0 <= values["local.iou_before"] <= 1 and values["auto.gap"] == 0.0  # there is one step to choose


def test_a_base_trained_in_full_is_judged_as_what_it_adds(small):
    """The difference laid on the old base gives the new one's weights."""
    pictures = training_cases.training_set(small.shop, subject.SubjectRun("cat_striped", 0), "anywhere")
    adapter = small.shop.train(pictures, parameter_set="all", tuning="full", token="none", steps=1)
    changes = [factor for factor in adapter.factors.values() if isinstance(factor, Dense)]
    assert len(changes) == len(adapter.factors) > 50
    assert sum(float(one.weight.abs().sum()) for one in changes) > 0


def test_judges_are_compared_by_what_fidelity_measures():
    one = ThingReading("cat", "striped", frozenset({"red"}), "hat")
    from comfyui_fewshot.pocket.models.judge import same_judgement

    reading = SceneReading((one,), "beach", "one")
    assert same_judgement(reading, SceneReading((replace(one),), "beach", "one"))
    for other in (replace(one, accessory=None), replace(one, pattern="plain"), replace(one, colours=frozenset())):
        assert not same_judgement(reading, SceneReading((other,), "beach", "one"))
    assert not same_judgement(reading, replace(reading, place="snow"))
