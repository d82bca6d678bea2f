"""A relation's LoRA of noisy timesteps: learned there only, and used there only, from its file too."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from comfyui_fewshot.augmentation.images.relation_pictures import relation_from_folder
from comfyui_fewshot.core.errors import FewShotError
from comfyui_fewshot.core.progress import NullProgress
from comfyui_fewshot.core.values import NOISY_FROM, LowRank
from comfyui_fewshot.models.adapters.apply import applied
from comfyui_fewshot.models.adapters.formats import read_lora
from comfyui_fewshot.models.adapters.inject import LoraSpec, inject
from comfyui_fewshot.models.adapters.merge import sum_adapters
from comfyui_fewshot.models.open import base_from_path, open_base
from comfyui_fewshot.models.sampling import SamplingOptions, sample_latents
from comfyui_fewshot.models.stable_diffusion.encoding.prompts import denoise, encode_prompts
from comfyui_fewshot.pocket.world import words
from comfyui_fewshot.tests.models import checkpoints
from comfyui_fewshot.trainers.commands.relation import read_relation
from comfyui_fewshot.trainers.context import TrainingContext
from comfyui_fewshot.trainers.refine.method import _check_effect
from comfyui_fewshot.trainers.relation.method import RelationTraining, train_relation
from comfyui_fewshot.trainers.state.run_folder import read_adapter, write_adapter

from .relating import CHOSEN, WORD, captioned_folder, train_small

RANK = 4
PROMPT = "a cat <R> a house"


@pytest.fixture(scope="module")
def relation(picture_folder, tmp_path_factory):
    return relation_from_folder(captioned_folder(picture_folder, tmp_path_factory.mktemp("relation")), WORD)


@pytest.fixture(scope="module")
def train(wordy_base, relation):
    return partial(train_small, wordy_base, relation, high_noise_rank=RANK, high_noise_learning_rate=0.02)


@pytest.fixture(scope="module")
def opened(wordy_base):
    with open_base(wordy_base, torch.device("cpu")) as model:
        yield model


@pytest.fixture(scope="module")
def result(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("noisy"))


@pytest.fixture(scope="module")
def layers(result):
    """The LoRA alone, without the word."""
    return replace(result.adapter, embeddings={})


@torch.no_grad()
def predicted(model, times):
    """Of the same noisy latents at each of the timesteps, in one batch."""
    latents = torch.randn(len(times), 4, 8, 8, generator=torch.Generator().manual_seed(3))
    told = encode_prompts(model, ["a cat and a house"]).repeat(len(times))
    return denoise(model, latents, torch.tensor(times), told)


def test_only_noisy_samples_teach_it(opened, relation, monkeypatch):
    """Its gradient is zero at timesteps below half, and not above; the word's is not at either."""
    settings = replace(CHOSEN, resolution=32, micro_batch=4, high_noise_rank=RANK, steering_weight=0.0)
    for noisy in (False, True):
        step, injected = RelationTraining().prepare(opened, relation, settings, None, NullProgress())
        half = len(opened.process) // 2
        times = [half, 900] if noisy else [half - 1, 100]
        monkeypatch.setattr(step, "times", lambda term, step, samples, times=times: torch.tensor(times))
        try:
            pairs = {name: p for name, p in injected.parameters.items() if name.endswith((".lora_up", ".lora_down"))}
            assert pairs and all("attn2.to_" in name for name in pairs)
            with torch.no_grad():
                for parameter in pairs.values():
                    parameter.fill_(0.1)
            for terms in step.passes(3, list):
                sum(terms.values()).backward()
            assert {bool(p.grad.abs().sum() > 0) for p in pairs.values()} == {noisy}
            assert injected.parameters[f"token.{WORD}.clip_l"].grad.abs().sum() > 0
        finally:
            injected.remove()


def test_below_half_the_base_is_as_it_is(opened, layers):
    """Bitwise, in a batch with noisy rows too, which it changes."""
    base = predicted(opened, [0, 499, 500, 999])
    with applied(opened, [(layers, 1.0)]):
        on = predicted(opened, [0, 499, 500, 999])
    assert torch.equal(on[:2], base[:2]) and all((on[i] - base[i]).abs().max() > 1e-4 for i in (2, 3))
    assert torch.equal(predicted(opened, [0, 499, 500, 999]), base)  # nothing stays


def test_it_counts_in_full_where_it_counts(opened, layers):
    """As the same LoRA that always counts; at its strength."""
    always = replace(layers, metadata={})
    for strength in (1.0, 0.5):
        with applied(opened, [(layers, strength)]):
            noisy = predicted(opened, [500, 999])
        with applied(opened, [(always, strength)]):
            assert torch.allclose(noisy, predicted(opened, [500, 999]), atol=1e-5)


def test_pictures_are_drawn_with_it_in_their_first_half(opened, layers):
    """From latents of half-way on the base alone goes on: two steps, of which the first one alone differs."""

    def draw(steps):
        return sample_latents(opened, ["a cat and a house"], [1], SamplingOptions(32, 32, steps, guidance=1.0))

    always = replace(layers, metadata={})
    with applied(opened, [(layers, 1.0)]):
        one, two = draw(steps=1), draw(steps=4)
    with applied(opened, [(always, 1.0)]):
        assert torch.allclose(one, draw(steps=1), atol=1e-4) and not torch.allclose(two, draw(steps=4), atol=1e-4)
    assert not torch.allclose(two, draw(steps=4), atol=1e-4)


def test_training_learns_it_and_its_files_say_when_it_counts(result, opened, tmp_path):
    """The LoRA with the word in it, the word beside it, and the run's own copy; a resumed run ends as an uncut one."""
    adapter = result.adapter
    assert adapter.noisy_from == 0.5 and set(adapter.embeddings) == {WORD}
    assert all(isinstance(factor, LowRank) and factor.rank == RANK for factor in adapter.factors.values())
    read = read_lora(result.lora)
    assert read.noisy_from == 0.5 and set(read.factors) == set(adapter.factors) and WORD in read.embeddings
    assert [p.name for p in result.folder.glob("*.safetensors") if p != result.lora] == ["relation_R.safetensors"]
    kept = read_adapter(write_adapter(tmp_path / "kept.safetensors", adapter))
    assert kept.key == adapter.key != replace(adapter, metadata={}).key
    with applied(opened, [(replace(read, embeddings={}), 1.0)]):
        from_file = predicted(opened, [400, 700])
    with applied(opened, [(replace(adapter, embeddings={}), 1.0)]):
        assert torch.allclose(from_file, predicted(opened, [400, 700]), atol=1e-2)


def test_a_cut_run_ends_as_an_uncut_one(train, result, tmp_path, cut_at):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, cut_at(5, KeyboardInterrupt()))
    again = train(tmp_path)
    assert 0 < again.resumed_from < 8 and again.adapter.key == result.adapter.key and again.terms == result.terms
    texts = [(run.folder / "readings.json").read_text() for run in (again, result)]
    assert texts[0] == texts[1]


def test_what_counts_at_other_timesteps_is_not_mixed(opened, result, train, tmp_path):
    """Trained on from by the same kind only; never fused or refined."""
    adapter, always = result.adapter, replace(result.adapter, metadata={})
    with pytest.raises(FewShotError, match="counts from 0.5 of the schedule on, and what is trained here always"):
        inject(opened, {"attention": LoraSpec(4, 4.0)}, 0, adapter)
    with pytest.raises(FewShotError, match="counts always"):
        train(tmp_path / "a", start_from=always)
    assert train(tmp_path / "b", start_from=adapter, steps=1).adapter.noisy_from == 0.5
    word_alone = train(tmp_path / "c", start_from=adapter, steps=1, high_noise_rank=0, high_noise_learning_rate=0.0)
    assert word_alone.adapter.noisy_from == 0.5 and set(word_alone.adapter.factors) == set(adapter.factors)
    with pytest.raises(FewShotError, match="noisy timesteps only"):
        sum_adapters([(adapter, 1.0), (replace(always, trigger="sks"), 1.0)])
    with pytest.raises(FewShotError, match="noisy timesteps only"):
        _check_effect(adapter)
    text = replace(adapter, factors={"text_encoder.text_model.a": next(iter(adapter.factors.values()))})
    with pytest.raises(FewShotError, match="no plain low-rank pair"), applied(opened, [(text, 1.0)]):
        pass
    with pytest.raises(FewShotError, match="must be a number"):
        assert replace(adapter, metadata={NOISY_FROM: "much"}).noisy_from


def test_the_command_trains_on_from_either_file(result):
    """The LoRA with the word in it, or the word's own."""
    (word,) = (path for path in result.folder.glob("*.safetensors") if path != result.lora)
    both, alone = read_relation(result.lora, "sd1"), read_relation(word, "sd1")
    assert both.noisy_from == 0.5 and set(both.factors) == set(result.adapter.factors) and not alone.factors
    assert set(both.embeddings) == set(alone.embeddings) == {WORD}


def test_one_read_under_inference_mode_stays_beneath_a_word(train, result, tmp_path):
    """As ComfyUI reads files; gradients pass its pairs."""
    with torch.inference_mode():
        read = read_lora(result.lora)
    word = train(tmp_path, start_from=read, steps=1, high_noise_rank=0, high_noise_learning_rate=0.0).adapter
    assert set(word.factors) == set(read.factors) and word.noisy_from == 0.5


def test_sdxl_learns_one_too(tmp_path, relation):
    """Of both its text encoders' width, named so that its file loads."""
    made = checkpoints.sdxl()
    file = checkpoints.save(made, tmp_path / "base.safetensors", {"modelspec.prediction_type": "epsilon"})
    words.build(tmp_path / "tokenizer")
    settings = replace(CHOSEN, steps=2, resolution=32, high_noise_rank=RANK)
    context = TrainingContext(tmp_path / "runs", "cpu", tokenizer_folder=tmp_path / "tokenizer")
    result = train_relation(base_from_path(file), relation, settings, context)
    assert read_lora(result.lora).family == "sdxl" and read_lora(result.lora).noisy_from == 0.5
    widths = {factor.down.shape[1] for factor in result.adapter.factors.values()}
    assert widths == {sum(vectors.shape[1] for vectors in result.adapter.embeddings[WORD].values())}
